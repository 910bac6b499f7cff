// Package certificates serves TLS from files, which may change while it does.
package certificates

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"tollgate/policy/keys/smallfile"
)

// Files names the PEM files of a port's TLS. ClientCA, if set, turns on mTLS: only clients with a
// certificate of it are served.
type Files struct {
	Certificate, Key, ClientCA string
}

// Certificates serves TLS from files and takes them up again when they change.
type Certificates struct {
	files   Files
	log     *slog.Logger
	seen    []byte // of the last Refresh; used by its caller's goroutine only
	current atomic.Pointer[tls.Config]
}

// Load reads the files; the first load must succeed.
func Load(files Files, log *slog.Logger) (*Certificates, error) {
	if files.Certificate == "" || files.Key == "" {
		return nil, errors.New("tls: a certificate needs its key, and a client CA needs both")
	}
	c := &Certificates{files: files, log: log}
	if err := c.Refresh(); err != nil {
		return nil, err
	}
	return c, nil
}

// Config returns a server configuration that follows the files.
func (c *Certificates) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return c.current.Load(), nil
		},
	}
}

// maxPEM is far above what a file with certificates has, in bytes.
const maxPEM = 4 << 20

// Refresh reads the files again if they changed. What cannot be read leaves the
// old certificates in use.
func (c *Certificates) Refresh() error {
	cert, err := smallfile.Read(c.files.Certificate, maxPEM)
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	key, err := smallfile.Read(c.files.Key, maxPEM)
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	var ca []byte
	if c.files.ClientCA != "" {
		if ca, err = smallfile.Read(c.files.ClientCA, maxPEM); err != nil {
			return fmt.Errorf("tls: %w", err)
		}
	}
	all := bytes.Join([][]byte{cert, key, ca}, []byte{0})
	if bytes.Equal(all, c.seen) {
		return nil
	}
	config, err := serverConfig(cert, key, ca)
	if err != nil {
		return fmt.Errorf("tls: %s: %w", c.files.Certificate, err)
	}
	c.seen = all
	c.current.Store(config)
	c.log.Info("certificates loaded", slog.String("certificate", c.files.Certificate))
	return nil
}

// Follow looks at the files at every tick until ctx ends, and says once why new ones are refused.
func (c *Certificates) Follow(ctx context.Context, ticks <-chan time.Time) {
	told := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
		problem := ""
		if err := c.Refresh(); err != nil {
			problem = err.Error()
		}
		if problem != "" && problem != told {
			c.log.Error("certificates refused; the ones before stay in use", slog.String("error", problem))
		}
		told = problem
	}
}

func serverConfig(cert, key, ca []byte) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2"},
		Certificates: []tls.Certificate{pair},
	}
	if ca != nil {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(ca) {
			return nil, errors.New("the client CA file holds no certificate")
		}
		config.ClientCAs, config.ClientAuth = pool, tls.RequireAndVerifyClientCert
	}
	return config, nil
}
