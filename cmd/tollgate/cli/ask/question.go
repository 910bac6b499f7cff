package ask

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"tollgate/policy/keys/smallfile"
)

// question is a request as an Envoy would tell of it.
type question struct {
	method, host, path string
	headers            map[string]string
	context            map[string]string
}

// answer is what was decided.
type answer struct {
	allowed bool
	status  int    // of a refusal, for the client
	reason  string // of the dynamic metadata
}

// ask asks the server at an address, and waits for it until ctx ends. Errors: nobody answers, or
// not with a decision.
func (q question) ask(ctx context.Context, address string, c credentials.TransportCredentials) (*answer, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(c))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	response, err := authv3.NewAuthorizationClient(conn).Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: q.method, Host: q.host, Path: q.path, Headers: q.headers, Scheme: "https", Protocol: "HTTP/1.1",
		}},
		ContextExtensions: q.context,
	}}, grpc.WaitForReady(true))
	if err != nil {
		return nil, err
	}
	a := &answer{
		allowed: response.GetStatus().GetCode() == int32(codes.OK),
		status:  int(response.GetDeniedResponse().GetStatus().GetCode()),
		reason:  response.GetDynamicMetadata().GetFields()["reason"].GetStringValue(),
	}
	if a.reason == "" || !a.allowed && a.status == 0 {
		return nil, errors.New("it answers, but not as Tollgate does")
	}
	return a, nil
}

// certificates are the files of a connection that is encrypted.
type certificates struct{ ca, cert, key string }

func (c certificates) check() error {
	switch {
	case (c.cert == "") != (c.key == ""):
		return errors.New("--tls-cert and --tls-key: give both or neither")
	case c.cert != "" && c.ca == "":
		return errors.New("--tls-cert: there is no --tls-ca")
	}
	return nil
}

// credentials reads the files.
func (c certificates) credentials() (credentials.TransportCredentials, error) {
	if c.ca == "" {
		return insecure.NewCredentials(), nil
	}
	pem, err := smallfile.Read(c.ca, 1<<20)
	if err != nil {
		return nil, fmt.Errorf("--tls-ca: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--tls-ca: %s holds no PEM certificate", c.ca)
	}
	if c.cert != "" {
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			return nil, fmt.Errorf("--tls-cert: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(config), nil
}
