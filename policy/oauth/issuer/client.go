package issuer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// Timeout bounds one request to an issuer, from the look-up of its name to the end of its
	// answer.
	Timeout = 5 * time.Second

	connectTimeout = 3 * time.Second
	maxHeader      = 32 << 10
)

// NewClient returns a client for requests to issuers. It follows no redirects, and plain http goes
// to this machine alone, whatever a name is said to mean.
func NewClient() *http.Client {
	transport := func(control func(string, string, syscall.RawConn) error) *http.Transport {
		dialer := &net.Dialer{Timeout: connectTimeout, Control: control}
		return &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSHandshakeTimeout: connectTimeout,
			ResponseHeaderTimeout: Timeout, MaxResponseHeaderBytes: maxHeader, MaxConnsPerHost: 32, MaxIdleConnsPerHost: 8,
			IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true, DisableCompression: true,
		}
	}
	plain := transport(loopbackOnly)
	plain.Proxy = nil
	return &http.Client{
		Timeout: Timeout, Transport: byScheme{plain: plain, encrypted: transport(nil)},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// byScheme sends what is not encrypted another way.
type byScheme struct{ plain, encrypted http.RoundTripper }

// RoundTrip sends a request.
func (s byScheme) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "https" {
		return s.encrypted.RoundTrip(r)
	}
	return s.plain.RoundTrip(r)
}

// loopbackOnly is net.Dialer's Control: it sees where a connection really goes.
func loopbackOnly(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err == nil && !to.Addr().IsLoopback() {
		err = fmt.Errorf("%v is not this machine, and http is for that alone", to.Addr())
	}
	return err
}

// get returns the JSON document at a URL and for how long it may be kept, 0 if it does not say.
// Errors name no more of the answer than its status and its type.
func get(ctx context.Context, client *http.Client, url string, most int) (body []byte, age time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, 0, errors.New("no request")
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json")
	req.Header.Set("User-Agent", "tollgate")
	answer, err := client.Do(req)
	if err != nil {
		return nil, 0, Plain(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return nil, 0, &statusError{answer.StatusCode}
	}
	if kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type")); err != nil || kind != "application/json" && !strings.HasSuffix(kind, "+json") {
		return nil, 0, errors.New("the answer is not JSON by its Content-Type")
	}
	if body, err = io.ReadAll(io.LimitReader(answer.Body, int64(most)+1)); err != nil {
		return nil, 0, Plain(err)
	}
	if len(body) > most {
		return nil, 0, fmt.Errorf("the answer is longer than %d bytes", most)
	}
	return body, maxAge(answer.Header), nil
}

// statusError is an answer that is not 200.
type statusError struct{ status int }

// Error names the status.
func (e *statusError) Error() string {
	if e.status/100 == 3 {
		return fmt.Sprintf("answered %d: redirects are not followed", e.status)
	}
	return fmt.Sprintf("answered %d", e.status)
}

// maxAge is that of Cache-Control (RFC 9111 section 5.2.2.1), 0 where there is none. What may not
// be kept at all is kept for as short as anything.
func maxAge(h http.Header) time.Duration {
	for directive := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
		if name == "no-store" || name == "no-cache" {
			return time.Second
		}
		if name != "max-age" {
			continue
		}
		if n, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 32); err == nil && n >= 0 {
			return max(time.Duration(n), 1) * time.Second
		}
	}
	return 0
}

// Plain is an error of a request without its URL, and without anything that was answered.
func Plain(err error) error {
	var (
		timeout interface{ Timeout() bool }
		network *net.OpError
	)
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("no answer within %v", Timeout)
	case errors.As(err, &network):
		return network
	case strings.Contains(err.Error(), "certificate"):
		return errors.New("its certificate is not valid for it, or not by an authority that is known here")
	}
	return errors.New("the connection broke, or the answer is not HTTP")
}
