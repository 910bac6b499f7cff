package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"tollgate/policy/alerts/guard"
)

// Timeout bounds one try, from the look-up of the name to the end of the answer.
const Timeout = 10 * time.Second

const (
	connectTimeout = 5 * time.Second
	maxHeader      = 64 << 10
	maxBody        = 64 << 10 // read of an answer, so that its connection can be used again
)

// Receiver is where messages go. It is safe for concurrent use.
type Receiver struct {
	to     *url.URL
	secret Secret
	slack  bool // it wants Slack's bodies, unsigned
	client *http.Client
}

// New returns a Receiver of signed messages. The URL must be https; http is for receivers in
// networks that are allowed, so allowsHTTP says that some are. Errors do not repeat the URL, which
// may be a secret.
func New(address string, secret Secret, g *guard.Guard, allowsHTTP bool) (*Receiver, error) {
	r, err := newReceiver(address, g, allowsHTTP)
	if err == nil {
		r.secret = secret
	}
	return r, err
}

// NewSlack is New of one that takes messages as Slack's incoming webhooks do.
func NewSlack(address string, g *guard.Guard, allowsHTTP bool) (*Receiver, error) {
	r, err := newReceiver(address, g, allowsHTTP)
	if err == nil {
		r.slack = true
	}
	return r, err
}

func newReceiver(address string, g *guard.Guard, allowsHTTP bool) (*Receiver, error) {
	to, err := url.Parse(address)
	switch {
	case err != nil, to.Hostname() == "", to.User != nil, to.Fragment != "":
		return nil, errors.New("want https://HOST/PATH, without a user or a fragment")
	case to.Scheme != "https" && (to.Scheme != "http" || !allowsHTTP):
		return nil, errors.New("want https://; http:// goes to allowed networks alone")
	}
	dialer := &net.Dialer{Timeout: connectTimeout, Control: g.Control}
	return &Receiver{to: to, client: &http.Client{
		Timeout: Timeout,
		Transport: &http.Transport{ // without a proxy, which would be what dials
			DialContext: dialer.DialContext, TLSHandshakeTimeout: connectTimeout, ResponseHeaderTimeout: Timeout,
			MaxResponseHeaderBytes: maxHeader, MaxConnsPerHost: 16, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Host is where messages go, without what of the URL may be secret.
func (r *Receiver) Host() string { return r.to.Host }

// Post sends a message at a time. Only an answer 2xx is none but success. Errors name no URL, and
// repeat nothing that was answered.
func (r *Receiver) Post(ctx context.Context, id string, at time.Time, body []byte) error {
	if r.slack {
		var err error
		if body, err = slackBody(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.to.String(), bytes.NewReader(body))
	if err != nil {
		return errors.New("no request")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "tollgate")
	if !r.slack {
		req.Header.Set("webhook-id", id)
		req.Header.Set("webhook-timestamp", strconv.FormatInt(at.Unix(), 10))
		req.Header.Set("webhook-signature", r.secret.Sign(id, at, body))
	}
	answer, err := r.client.Do(req)
	if err != nil {
		return plain(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if _, err := io.CopyN(io.Discard, answer.Body, maxBody); err != nil && !errors.Is(err, io.EOF) && answer.StatusCode/100 == 2 {
		return errors.New("the answer broke off")
	}
	switch answer.StatusCode / 100 {
	case 2:
		return nil
	case 3:
		return fmt.Errorf("answered %d: redirects are not followed", answer.StatusCode)
	}
	return fmt.Errorf("answered %d", answer.StatusCode)
}

// plain is an error without the URL, and without what a receiver has said.
func plain(err error) error {
	var (
		timeout interface{ Timeout() bool }
		network *net.OpError
		tlsWord *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("no answer within %v", Timeout)
	case errors.As(err, &network):
		return network
	case errors.As(err, &tlsWord):
		return tlsWord
	}
	return errors.New("the connection broke, or the answer is not HTTP")
}
