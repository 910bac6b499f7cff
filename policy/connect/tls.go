package connect

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"tollgate/policy/keys/smallfile"
)

// tlsFiles are the TLS settings of a target.
type tlsFiles struct {
	on            bool
	ca, cert, key string // paths of PEM files
	serverName    string
	anyName       bool
}

func (f tlsFiles) check() error {
	switch {
	case !f.on && f != (tlsFiles{}):
		return errors.New("tls_ parameters are for rediss://, rediss+sentinel:// and rediss+cluster://")
	case (f.cert == "") != (f.key == ""):
		return errors.New("a TLS client has both a certificate (tls_cert) and its key (tls_key), or neither")
	}
	return nil
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// certificates hold what the files last gave. They are read at every new connection, which needs no
// watcher, misses no symbolic-link swap, and costs little beside the handshake.
type certificates struct {
	files tlsFiles
	log   *slog.Logger

	mu     sync.Mutex
	config *tls.Config
	told   string // the complaint that was logged last
}

func loadCertificates(f tlsFiles, log *slog.Logger) (*certificates, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &certificates{files: f, log: log}
	if err := c.read(); err != nil {
		return nil, err
	}
	return c, nil
}

// current returns the configuration that the files give, or the one before them if they give none:
// in the middle of a change a certificate and its key may not fit.
func (c *certificates) current() *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.read()
	if err == nil {
		c.told = ""
	} else if c.told != err.Error() {
		c.told = err.Error()
		c.log.Warn("TLS files for Redis refused; the ones before them stay in force", slog.Any("error", err))
	}
	return c.config
}

// maxPEM is far above what a file with certificates has, in bytes.
const maxPEM = 4 << 20

// read builds config from the files.
func (c *certificates) read() error {
	var pem [3][]byte
	for i, path := range []string{c.files.ca, c.files.cert, c.files.key} {
		if path == "" {
			continue
		}
		var err error
		if pem[i], err = smallfile.Read(path, maxPEM); err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.files.ca != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem[0]) {
			return fmt.Errorf("TLS: %s holds no PEM certificate", c.files.ca)
		}
	}
	if c.files.cert != "" {
		pair, err := tls.X509KeyPair(pem[1], pem[2])
		if err != nil {
			return fmt.Errorf("TLS: %s and %s: %w", c.files.cert, c.files.key, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	if c.files.anyName {
		skipName(config)
	}
	c.config = config
	return nil
}

// skipName verifies the chain and not the name.
func skipName(config *tls.Config) {
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(s tls.ConnectionState) error {
		chain := x509.VerifyOptions{Roots: config.RootCAs, Intermediates: x509.NewCertPool()}
		for _, c := range s.PeerCertificates[1:] {
			chain.Intermediates.AddCert(c)
		}
		_, err := s.PeerCertificates[0].Verify(chain)
		return err
	}
}

// dialer returns what opens one TLS connection, handshake included, within the context and the
// time-out. home is whom to ask if a cluster's node does not know its own host.
func (c *certificates) dialer(timeout time.Duration, home string) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		if host == "" {
			host = home
		}
		config := c.current().Clone()
		config.ServerName = cmp.Or(c.files.serverName, host)
		address = net.JoinHostPort(host, port)
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, handshakeError(address, err)
		}
		return secure, nil
	}
}

// handshakeError says what a server without TLS does: it waits for the rest of what it takes for a
// command, or answers with something else.
func handshakeError(address string, err error) error {
	var other tls.RecordHeaderError
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &other) {
		return fmt.Errorf("TLS: %s does not answer the handshake; for a port without TLS write redis:// in place of rediss://: %w", address, err)
	}
	return fmt.Errorf("TLS: %s: %w", address, err)
}

// plainDialer is dialer without TLS.
func plainDialer(timeout time.Duration, home string) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if strings.HasPrefix(address, ":") {
			address = net.JoinHostPort(home, address[1:])
		}
		return (&net.Dialer{Timeout: timeout}).DialContext(ctx, network, address)
	}
}
