package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"tollgate/extauthz/httpserver"
)

// checkLane finds what is wrong with the settings of the HTTP lane. Whoever can ask
// there chooses what is decided about, so an address that others can reach needs
// mTLS or a list of who may.
func (s *settings) checkLane() error {
	trusted, err := s.lanePeers()
	switch {
	case err != nil:
		return err
	case s.laneAddress == "" && s.laneTrusted != "":
		return errors.New("--authz-http-trusted: there is no --authz-http-address")
	case s.laneAddress == "":
		return nil
	}
	if err := checkAddress("authz-http-address", s.laneAddress); err != nil {
		return err
	}
	host, _, _ := net.SplitHostPort(s.laneAddress)
	address, err := netip.ParseAddr(host)
	local := err == nil && address.Unmap().IsLoopback() || host == "localhost" || strings.HasPrefix(s.laneAddress, unixPrefix)
	if !local && s.tlsClientCA == "" && (s.laneTrusted == "" || len(trusted) == 0) {
		return fmt.Errorf("--authz-http-address: others can reach %s; give --tls-client-ca, or --authz-http-trusted with the addresses of your proxies", s.laneAddress)
	}
	return nil
}

// lanePeers returns whose connections the HTTP lane takes; none means everybody's,
// who by then has shown a certificate.
func (s *settings) lanePeers() ([]netip.Prefix, error) {
	list := s.laneTrusted
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

// listenLane opens the HTTP lane if there is to be one.
func (v *service) listenLane(s *settings) error {
	if s.laneAddress == "" {
		return nil
	}
	var config *tls.Config
	if v.certs != nil {
		config = v.certs.Config()
	}
	peers, err := s.lanePeers()
	if err != nil {
		return err
	}
	listener, err := listen(s.laneAddress)
	if err != nil {
		return failed(fmt.Errorf("--authz-http-address: %w", err))
	}
	v.laneListener, v.lane = listener, httpserver.New(v.authorizer, httpserver.Config{Trusted: peers, TLS: config})
	return nil
}

// serveLane serves the HTTP lane if there is one.
func (v *service) serveLane(ended chan<- error) {
	if v.lane != nil {
		ended <- v.lane.Serve(v.laneListener)
	}
}

func (v *service) shutDownLane(ctx context.Context) {
	if v.lane != nil {
		v.lane.Shutdown(ctx)
	}
}

// laneAt is where the HTTP lane is, "" for none.
func (v *service) laneAt() string {
	if v.laneListener == nil {
		return ""
	}
	return printAddress(v.laneListener)
}
