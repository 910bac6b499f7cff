package bootstrap

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tollgate/policy/keys/smallfile"
)

const (
	// callTime is how long a call of the Kubernetes API may take.
	callTime = 15 * time.Second
	// maxAnswer is the size of the largest Secret, and some more, in bytes.
	maxAnswer = 2 << 20
)

// cluster is the Kubernetes API, as a pod reaches it with its service account.
type cluster struct {
	client           *http.Client
	secrets          string // URL of the namespace's secrets
	namespace, token string
}

// inCluster reads where the API is and how to reach it: from the environment of a pod, and from the
// folder of its service account.
func inCluster(folder string) (*cluster, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, errors.New("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this runs in a pod")
	}
	texts := map[string]string{"token": "", "namespace": "", "ca.crt": ""}
	for name := range texts {
		data, err := smallfile.Read(filepath.Join(folder, name), 1<<20)
		if err != nil {
			return nil, fmt.Errorf("--service-account: %w", err)
		}
		texts[name] = strings.TrimSpace(string(data))
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(texts["ca.crt"])) {
		return nil, fmt.Errorf("--service-account: %s holds no PEM certificate", filepath.Join(folder, "ca.crt"))
	}
	address := url.URL{Scheme: "https", Host: net.JoinHostPort(host, port), Path: "/api/v1/namespaces/" + texts["namespace"] + "/secrets"}
	return &cluster{
		client: &http.Client{
			Timeout:   callTime,
			Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}},
			// The token is for this address alone.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		secrets: address.String(), namespace: texts["namespace"], token: texts["token"],
	}, nil
}

// secret is the part of a Secret that is used here; data are base64 on the wire.
type secret struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string            `json:"name"`
		Namespace string            `json:"namespace"`
		Labels    map[string]string `json:"labels,omitempty"`
	} `json:"metadata"`
	Type string            `json:"type,omitempty"`
	Data map[string][]byte `json:"data"`
}

func (c *cluster) get(ctx context.Context, name string) (map[string]string, bool, error) {
	status, body, err := c.call(ctx, http.MethodGet, c.secrets+"/"+url.PathEscape(name), nil)
	switch {
	case err != nil:
		return nil, false, err
	case status == http.StatusNotFound:
		return nil, false, nil
	case status != http.StatusOK:
		return nil, false, c.refused("get", name, status, body)
	}
	var s secret
	if err := json.Unmarshal(body, &s); err != nil {
		return nil, false, fmt.Errorf("the Secret %s: what the Kubernetes API answers is no Secret", name)
	}
	data := map[string]string{}
	for key, value := range s.Data {
		data[key] = string(value)
	}
	return data, true, nil
}

func (c *cluster) create(ctx context.Context, name string, data map[string]string) error {
	s := secret{APIVersion: "v1", Kind: "Secret", Type: "Opaque", Data: map[string][]byte{}}
	s.Metadata.Name, s.Metadata.Namespace = name, c.namespace
	s.Metadata.Labels = map[string]string{"app.kubernetes.io/name": "tollgate", "app.kubernetes.io/component": "bootstrap", "app.kubernetes.io/managed-by": "tollgate"}
	for key, value := range data {
		s.Data[key] = []byte(value)
	}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	status, body, err := c.call(ctx, http.MethodPost, c.secrets, text)
	if err == nil && status != http.StatusCreated {
		err = c.refused("create", name, status, body)
	}
	return err
}

// call sends a request and reads the answer.
func (c *cluster) call(ctx context.Context, method, address string, body []byte) (int, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	request.Header.Set("Content-Type", "application/json")
	response, err := c.client.Do(request)
	if err != nil {
		return 0, nil, fmt.Errorf("the Kubernetes API: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return 0, nil, fmt.Errorf("the Kubernetes API: %w", err)
	}
	return response.StatusCode, answer, nil
}

// refused is the API's own reason. What it says of a Secret has none of its data.
func (c *cluster) refused(verb, name string, status int, body []byte) error {
	var s struct{ Kind, Message string }
	if err := json.Unmarshal(body, &s); err != nil || s.Kind != "Status" {
		s.Message = "no reason given"
	}
	return fmt.Errorf("the Kubernetes API does not let this %s the Secret %s/%s: %d, %s", verb, c.namespace, name, status, s.Message)
}
