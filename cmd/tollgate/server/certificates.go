package server

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"tollgate/policy/keys/smallfile"
)

// CertificateFiles names the PEM files of the gRPC port's TLS. ClientCA, if set,
// turns on mTLS: only clients with a certificate of it are served.
type CertificateFiles struct {
	Certificate, Key, ClientCA string
}

// Certificates serves TLS from files and takes them up again when they change.
type Certificates struct {
	files   CertificateFiles
	log     *slog.Logger
	seen    []byte // of the last Refresh; used by its caller's goroutine only
	current atomic.Pointer[tls.Config]
}

// LoadCertificates reads the files; the first load must succeed.
func LoadCertificates(files CertificateFiles, log *slog.Logger) (*Certificates, error) {
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
