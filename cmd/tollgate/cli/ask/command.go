// Package ask is `tollgate doctor check`: it asks a running server about a request, as Envoy does.
package ask

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/keys/smallfile"
)

// The values of --want.
const (
	wantAllowed = "allowed"
	wantRefused = "refused"
)

// maxSecret is far above what a key has, in bytes.
const maxSecret = 4 << 10

// Command returns the command.
func Command() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:   "check --server HOST:PORT [flags]",
		Short: "Ask a server about a request, as Envoy does, and say what it decides",
		Long: `Ask a server about a request, as Envoy does (ext_authz v3), and say what it decides.
It waits for the server until --timeout. The exit code is 1 if nobody answers, if the
decision is not what --want says, or if none could be made (undecided). A request that
is allowed spends of the key's limits, like any other.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%s: takes flags only", cmd.CommandPath()) // not repeated: one could be a secret
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.server, "server", "", "the server's --grpc-address, HOST:PORT")
	f.StringVar(&o.host, "host", "", "Host header of the request")
	f.StringVar(&o.method, "method", "GET", "its method")
	f.StringVar(&o.path, "path", "/", "its path")
	f.StringToStringVar(&o.context, "context", nil, "context_extensions of the route, as NAME=VALUE; repeat it for more")
	f.StringVar(&o.keyFile, "key-file", "", "file with an API key to send; without one the request has none")
	f.StringVar(&o.keyHeader, "key-header", "Authorization", "header for the key; in Authorization it is a Bearer token")
	f.StringVar(&o.want, "want", "", "allowed or refused: what the decision must be; empty: either")
	f.StringVar(&o.tls.ca, "tls-ca", "", "PEM certificates of the CA of the server's certificate; without it the connection is not encrypted")
	f.StringVar(&o.tls.cert, "tls-cert", "", "PEM certificate to show to the server (mTLS)")
	f.StringVar(&o.tls.key, "tls-key", "", "PEM key of --tls-cert")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "how long to wait for the server and its answer")
	return cmd
}

type options struct {
	server, host, method, path string
	context                    map[string]string
	keyFile, keyHeader, want   string
	tls                        certificates
	timeout                    time.Duration
}

func (o *options) check() error {
	if _, _, err := net.SplitHostPort(o.server); err != nil {
		return errors.New("--server: want HOST:PORT, the server's --grpc-address")
	}
	if !strings.HasPrefix(o.path, "/") {
		return errors.New("--path: must begin with /")
	}
	if o.want != "" && o.want != wantAllowed && o.want != wantRefused {
		return fmt.Errorf("--want: unknown value %q, want %s or %s", o.want, wantAllowed, wantRefused)
	}
	if o.timeout <= 0 {
		return fmt.Errorf("--timeout: %v is not more than 0", o.timeout)
	}
	return o.tls.check()
}

// headers returns those of the request, names in lower case, as Envoy sends them.
func (o *options) headers() (map[string]string, error) {
	headers := map[string]string{}
	if o.keyFile == "" {
		return headers, nil
	}
	data, err := smallfile.Read(o.keyFile, maxSecret)
	if err != nil {
		return nil, fmt.Errorf("--key-file: %w", err)
	}
	key := strings.TrimSpace(string(data))
	if key == "" {
		return nil, fmt.Errorf("--key-file: %s is empty", o.keyFile)
	}
	name := strings.ToLower(o.keyHeader)
	if name == "authorization" {
		key = "Bearer " + key
	}
	headers[name] = key
	return headers, nil
}

func (o *options) run(cmd *cobra.Command) error {
	if err := o.check(); err != nil {
		return err
	}
	headers, err := o.headers()
	if err != nil {
		return err
	}
	credentials, err := o.tls.credentials()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	found, err := question{o.method, o.host, o.path, headers, o.context}.ask(ctx, o.server, credentials)
	if err != nil {
		return exit.Failed(fmt.Errorf("%s: %w", o.server, err))
	}
	if err := found.print(cmd.OutOrStdout()); err != nil {
		return exit.Failed(err)
	}
	return exit.Failed(found.judge(o.want))
}

// print says in a line what was decided.
func (a *answer) print(w io.Writer) error {
	status := ""
	if !a.allowed {
		status = fmt.Sprintf(" with %d", a.status)
	}
	_, err := fmt.Fprintf(w, "%s%s (%s)\n", a.word(), status, a.reason)
	return err
}

func (a *answer) word() string {
	if a.allowed {
		return wantAllowed
	}
	return wantRefused
}

// judge returns what is wrong with an answer.
func (a *answer) judge(want string) error {
	switch {
	case a.reason == "undecided":
		return errors.New("the server could not decide: its /readyz and its log say why")
	case want != "" && a.word() != want:
		return fmt.Errorf("the request is %s, and should be %s", a.word(), want)
	}
	return nil
}
