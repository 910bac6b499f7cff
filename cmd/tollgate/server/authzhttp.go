package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"tollgate/cmd/tollgate/exit"
	"tollgate/cmd/tollgate/listen"
	"tollgate/extauthz/httpserver"
	"tollgate/policy"
)

// checkAuthzHTTP finds what is wrong with the settings of the HTTP server for proxies. A client of
// that server says on whose behalf it asks, so an address that others can reach needs mTLS or a
// list of trusted peers.
func (s *options) checkAuthzHTTP() error {
	trusted, err := s.authzHTTPPeers()
	switch {
	case err != nil:
		return err
	case s.authzHTTPAddress == "" && s.authzHTTPTrusted != "":
		return errors.New("--authz-http-trusted: there is no --authz-http-address")
	case s.authzHTTPAddress == "":
		return nil
	}
	if err := checkAddress("authz-http-address", s.authzHTTPAddress); err != nil {
		return err
	}
	host, _, _ := net.SplitHostPort(s.authzHTTPAddress)
	address, err := netip.ParseAddr(host)
	local := err == nil && address.Unmap().IsLoopback() || host == "localhost" || strings.HasPrefix(s.authzHTTPAddress, listen.UnixPrefix)
	if !local && s.tlsClientCA == "" && (s.authzHTTPTrusted == "" || len(trusted) == 0) {
		return fmt.Errorf("--authz-http-address: others can reach %s; give --tls-client-ca, or --authz-http-trusted with the addresses of your proxies", s.authzHTTPAddress)
	}
	return nil
}

// acceptPolicies refuses an API that limits requests under way where proxies ask over HTTP: nothing
// tells of the end of their requests.
func (s *options) acceptPolicies(set *policy.Set) error {
	if s.authzHTTPAddress == "" {
		return nil
	}
	for _, api := range set.APIs() {
		if api.LimitsConcurrency() && !api.Slots().WithoutLog {
			return fmt.Errorf("api %q limits concurrent requests, and over --authz-http-address no access log tells when a request has ended: "+
				"with concurrency: {without_log: ttl} each counts for max_duration", api.Name())
		}
	}
	return nil
}

// authzHTTPPeers returns the peers whose connections the HTTP server accepts; none means
// all, because each has shown a certificate by then.
func (s *options) authzHTTPPeers() ([]netip.Prefix, error) {
	list := s.authzHTTPTrusted
	if list == "" {
		if s.tlsClientCA != "" {
			return nil, nil
		}
		list = "127.0.0.0/8,::1/128"
	}
	var peers []netip.Prefix
	for text := range strings.SplitSeq(list, ",") {
		text = strings.TrimSpace(text)
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			address, addressErr := netip.ParseAddr(text)
			if addressErr != nil {
				return nil, fmt.Errorf("--authz-http-trusted: %q is neither an address nor a CIDR", text)
			}
			prefix = netip.PrefixFrom(address.Unmap().WithZone(""), address.Unmap().BitLen())
		}
		peers = append(peers, prefix.Masked())
	}
	return peers, nil
}

// listenAuthzHTTP opens the HTTP server's port if there is to be one.
func (v *service) listenAuthzHTTP(s *options) error {
	if s.authzHTTPAddress == "" {
		return nil
	}
	var config *tls.Config
	if v.certs != nil {
		config = v.certs.Config()
	}
	peers, err := s.authzHTTPPeers()
	if err != nil {
		return err
	}
	listener, err := listen.On(s.authzHTTPAddress)
	if err != nil {
		return exit.Failed(fmt.Errorf("--authz-http-address: %w", err))
	}
	v.authzHTTPListener, v.authzHTTP = listener, httpserver.New(v.authorizer, httpserver.Config{Trusted: peers, TLS: config})
	return nil
}

// serveAuthzHTTP serves proxies over HTTP if there is one.
func (v *service) serveAuthzHTTP(ended chan<- error) {
	if v.authzHTTP != nil {
		ended <- v.authzHTTP.Serve(v.authzHTTPListener)
	}
}

func (v *service) shutDownAuthzHTTP(ctx context.Context) {
	if v.authzHTTP != nil {
		v.authzHTTP.Shutdown(ctx)
	}
}

// authzHTTPAddress is where proxies ask over HTTP, "" for none.
func (v *service) authzHTTPAddress() string {
	if v.authzHTTPListener == nil {
		return ""
	}
	return listen.Address(v.authzHTTPListener)
}
