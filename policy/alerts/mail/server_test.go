package mail_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// server is an SMTP server that takes mail, unless it is told otherwise.
type server struct {
	listener net.Listener
	config   *tls.Config
	roots    *x509.CertPool
	implicit bool

	noTLS   bool              // it does not offer STARTTLS
	answers map[string]string // in place of its own, by command
	hang    bool              // it says nothing

	mu       sync.Mutex
	mails    []string // envelope and text
	commands []string
	work     sync.WaitGroup
}

func startServer(t *testing.T, change ...func(s *server)) *server {
	t.Helper()
	s := &server{answers: map[string]string{}}
	s.config, s.roots = certificate(t)
	for _, f := range change {
		f(s)
	}
	var err error
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.work.Go(func() {
		for {
			c, err := s.listener.Accept()
			if err != nil {
				return
			}
			s.work.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = s.listener.Close()
		s.work.Wait()
	})
	return s
}

// url returns the server's, under a name that its certificate has.
func (s *server) url() string {
	scheme := "smtp"
	if s.implicit {
		scheme = "smtps"
	}
	return scheme + "://" + s.listener.Addr().String()
}

func certificate(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail"}, NotAfter: time.Now().Add(time.Hour), NotBefore: time.Now().Add(-time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, roots
}

// serve speaks RFC 5321 with one client.
func (s *server) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if s.hang {
		_, _ = c.Read(make([]byte, 1)) // until the client is gone
		return
	}
	if s.implicit {
		c = tls.Server(c, s.config)
	}
	secure := s.implicit
	in := bufio.NewReader(c)
	say := func(text string) { _, _ = fmt.Fprint(c, strings.ReplaceAll(text, "\n", "\r\n")+"\r\n") }
	say("220 mail ESMTP")
	envelope := ""
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		command, _, _ := strings.Cut(line, " ")
		s.note(fmt.Sprint(line, " ", secure))
		if answer := s.answers[command]; answer != "" {
			say(answer)
			continue
		}
		switch command {
		case "EHLO":
			if secure {
				say("250-mail\n250 AUTH PLAIN")
			} else if s.noTLS {
				say("250 mail")
			} else {
				say("250-mail\n250 STARTTLS")
			}
		case "STARTTLS":
			say("220 go on")
			c = tls.Server(c, s.config)
			in, secure = bufio.NewReader(c), true
		case "AUTH":
			say("235 welcome")
		case "MAIL", "RCPT":
			envelope += line + "\n"
			say("250 ok")
		case "DATA":
			say("354 go on")
			text := ""
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				if line == ".\r\n" {
					break
				}
				text += strings.TrimPrefix(line, ".")
			}
			s.mu.Lock()
			s.mails = append(s.mails, envelope+text)
			s.mu.Unlock()
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("500 what")
		}
	}
}

func (s *server) note(command string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commands = append(s.commands, command)
}

// taken returns what it has taken, and all commands with whether they came over TLS.
func (s *server) taken() (mails []string, commands string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mails, strings.Join(s.commands, "\n")
}

func plainAuth(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
}
