// Package mail sends messages by SMTP, over TLS alone, through a server that the operator names.
package mail

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"net/url"
	"strings"
	"time"

	"tollgate/policy/alerts"
	"tollgate/policy/alerts/guard"
)

const (
	// Timeout bounds one try.
	Timeout = 20 * time.Second

	connectTimeout = 5 * time.Second
	maxRecipients  = 20
	// maxRead bounds what is read from a server, its certificates included.
	maxRead = 256 << 10
)

// Config says by whom and to whom mail is sent.
type Config struct {
	// Server is smtps://HOST[:PORT] (465), or smtp://HOST[:PORT] (587) for one that goes over to
	// TLS, which it must.
	Server string
	From   string // a plain address
	To     string // plain addresses, joined with commas
	// User and Password are for AUTH PLAIN; no User, no AUTH.
	User, Password string
	// Roots sign the server's certificate; nil for the system's.
	Roots *x509.CertPool
}

// Mailer sends mail. It is safe for concurrent use.
type Mailer struct {
	host, address string // address has the port, too
	implicit      bool   // TLS from the start
	from          string
	to            []string
	auth          smtp.Auth // nil for none
	tls           *tls.Config
	dialer        net.Dialer
}

// New returns a Mailer. Its error repeats neither user nor password.
func New(c Config, g *guard.Guard) (*Mailer, error) {
	m := &Mailer{dialer: net.Dialer{Timeout: connectTimeout, Control: g.Control}}
	if err := m.setServer(c.Server); err != nil {
		return nil, err
	}
	var err error
	if m.from, err = plainAddress(c.From); err != nil {
		return nil, fmt.Errorf("from: %w", err)
	}
	for to := range strings.SplitSeq(c.To, ",") {
		address, err := plainAddress(strings.TrimSpace(to))
		if err != nil {
			return nil, fmt.Errorf("to: %w", err)
		}
		m.to = append(m.to, address)
	}
	if len(m.to) > maxRecipients {
		return nil, fmt.Errorf("to: %d addresses, at most %d", len(m.to), maxRecipients)
	}
	if (c.User == "") != (c.Password == "") {
		return nil, errors.New("a user and a password go together")
	}
	if c.User != "" {
		m.auth = smtp.PlainAuth("", c.User, c.Password, m.host)
	}
	m.tls = &tls.Config{ServerName: m.host, MinVersion: tls.VersionTLS12, RootCAs: c.Roots}
	return m, nil
}

func (m *Mailer) setServer(text string) error {
	u, err := url.Parse(text)
	port := map[string]string{"smtps": "465", "smtp": "587"}
	if err != nil || u.Hostname() == "" || u.User != nil || port[u.Scheme] == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("want smtps://HOST or smtp://HOST, with a port or without; user and password are given apart")
	}
	m.host, m.implicit = u.Hostname(), u.Scheme == "smtps"
	if m.address = net.JoinHostPort(m.host, u.Port()); u.Port() == "" {
		m.address = net.JoinHostPort(m.host, port[u.Scheme])
	}
	return nil
}

// plainAddress takes user@host in ASCII.
func plainAddress(text string) (string, error) {
	a, err := mail.ParseAddress(text)
	if err != nil || a.Address != text || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%q is no address such as alerts@example.com", text)
	}
	return a.Address, nil
}

// Server is where mail goes.
func (m *Mailer) Server() string { return m.address }

// Post sends a message at a time. Errors repeat nothing that the server has said but its code.
func (m *Mailer) Post(ctx context.Context, id string, at time.Time, body []byte) error {
	text, err := m.compose(id, at, body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	conn, err := m.dialer.DialContext(ctx, "tcp", m.address)
	if err != nil {
		return plain(err)
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if end, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(end) // else AfterFunc closes it
	}
	if err := m.deliver(&bounded{Conn: conn, left: maxRead}, text); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("no answer within %v", Timeout)
		}
		return plain(err)
	}
	return nil
}

var errNoTLS = errors.New("the server offers no STARTTLS")

func (m *Mailer) deliver(conn net.Conn, text []byte) error {
	if m.implicit {
		conn = tls.Client(conn, m.tls)
	}
	c, err := smtp.NewClient(conn, m.host)
	if err != nil {
		return err
	}
	if err := c.Hello("localhost"); err != nil { // what Go says by itself, and then forgets why it failed
		return err
	}
	if !m.implicit {
		if ok, _ := c.Extension("STARTTLS"); !ok {
			return errNoTLS
		}
		if err := c.StartTLS(m.tls); err != nil {
			return err
		}
	}
	if m.auth != nil {
		if err := c.Auth(m.auth); err != nil {
			return err
		}
	}
	if err := c.Mail(m.from); err != nil {
		return err
	}
	for _, to := range m.to {
		if err := c.Rcpt(to); err != nil {
			return err
		}
	}
	data, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := data.Write(text); err != nil {
		return err
	}
	if err := data.Close(); err != nil {
		return err
	}
	_ = c.Quit() // it has the message
	return nil
}

// compose returns the message as RFC 5322 has it. The id is the same at each try, so that who reads
// the mail can tell a second one.
func (m *Mailer) compose(id string, at time.Time, body []byte) ([]byte, error) {
	t, err := alerts.ReadMessage(body)
	if err != nil {
		return nil, err
	}
	subject := "Tollgate: " + t.Headline
	if about := strings.Join(nonEmpty(t.About("api"), t.About("key")), ", "); about != "" {
		subject += " (" + about + ")"
	}
	_, domain, _ := strings.Cut(m.from, "@")
	var b bytes.Buffer
	for _, h := range [][2]string{
		{"From", m.from}, {"To", strings.Join(m.to, ", ")}, {"Subject", mime.QEncoding.Encode("utf-8", subject)},
		{"Date", at.UTC().Format(time.RFC1123Z)}, {"Message-ID", "<" + id + "@" + domain + ">"}, {"Auto-Submitted", "auto-generated"},
		{"MIME-Version", "1.0"}, {"Content-Type", "text/plain; charset=utf-8"}, {"Content-Transfer-Encoding", "quoted-printable"},
	} {
		b.WriteString(h[0] + ": " + h[1] + "\r\n")
	}
	b.WriteString("\r\n")
	w := quotedprintable.NewWriter(&b)
	text := t.Headline + "\r\n\r\n"
	for _, l := range t.Lines {
		text += l.Name + ": " + l.Value + "\r\n"
	}
	if _, err := io.WriteString(w, text+"\r\n"+id+"\r\n"); err != nil {
		return nil, err
	}
	return b.Bytes(), w.Close()
}

func nonEmpty(texts ...string) (some []string) {
	for _, t := range texts {
		if t != "" {
			some = append(some, t)
		}
	}
	return some
}

// bounded is a connection of which no more is read.
type bounded struct {
	net.Conn
	left int
}

var errTooLong = errors.New("the server says too much")

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLong
	}
	n, err := b.Conn.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// plain is an error without what the server has said.
func plain(err error) error {
	var (
		said    *textproto.Error
		network *net.OpError
		timeout interface{ Timeout() bool }
		tlsWord *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &said):
		return fmt.Errorf("answered %d", said.Code)
	case errors.Is(err, errNoTLS), errors.Is(err, errTooLong):
		return err
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("no answer within %v", Timeout)
	case errors.As(err, &network):
		return network
	case errors.As(err, &tlsWord):
		return tlsWord
	}
	return errors.New("the connection broke, or the answer is not SMTP")
}
