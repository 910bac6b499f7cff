// Package manage is `tollgate manage`: its flags, and the process that serves the management API.
package manage

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tollgate/cmd/tollgate/settings"
)

// options are what `tollgate manage` runs with.
type options struct {
	settings.Shared

	address        string // HOST:PORT
	trusted        string // CIDRs, joined with commas
	tlsCert        string
	tlsKey         string
	addressesFile  string
	reloadInterval time.Duration
	logFormat      string
	logLevel       string
}

// Command returns the command that runs the management API.
func Command() *cobra.Command {
	s := &options{}
	cmd := &cobra.Command{
		Use:   "manage --policy FILE|DIR [flags]",
		Short: "Run the management API: keys over HTTP, for members of teams",
		Long: `Run the management API: members of teams make, change and end the keys of their team
over HTTP, with their tokens (tollgate members add), and hold neither the store nor the
pepper. It is a process of its own beside tollgate serve, and several can run.

Each flag can also be a variable, TOLLGATE_ and its name in capitals
(TOLLGATE_MANAGE_ADDRESS). A flag wins over a variable.

An address that others can reach needs --tls-cert, or --trusted-proxies, whose
connections alone are accepted then.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%s: takes flags only", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.fill(cmd.Flags()); err != nil {
				return err
			}
			return run(cmd.Context(), s, cmd.ErrOrStderr())
		},
	}
	cmd.Flags().SortFlags = false
	s.add(cmd.Flags())
	return cmd
}

func (s *options) add(f *pflag.FlagSet) {
	f.StringVar(&s.Policy, "policy", "", "policy file or directory, the same as the servers' (required)")
	f.StringVar(&s.Store, "store", settings.EmbeddedStore, "where the keys are: memory (that of the tollgate serve on this machine), or a URL such as redis://HOST:PORT")
	f.StringVar(&s.Socket, "store-socket", "", "unix socket of the memory store (default: where tollgate serve has it)")
	f.StringVar(&s.PepperFile, "pepper-file", "", "file with the secret that keys are hashed with, the same as the servers'; or the secret itself in TOLLGATE_PEPPER")
	f.StringVar(&s.OlderPeppers, "older-peppers", "", "files with earlier peppers, as the servers have them")
	f.StringVar(&s.address, "manage-address", "127.0.0.1:9003", "address of the API: HOST:PORT; port 0 picks one")
	f.StringVar(&s.trusted, "trusted-proxies", "", "addresses and CIDRs, joined with commas, of the proxies whose X-Forwarded-For says where a request comes from")
	f.StringVar(&s.tlsCert, "tls-cert", "", "PEM certificate of the API; read again when it changes")
	f.StringVar(&s.tlsKey, "tls-key", "", "PEM key of --tls-cert")
	f.StringVar(&s.addressesFile, "addresses-file", "", "file that gets the address that is served, as JSON")
	f.DurationVar(&s.reloadInterval, "reload-interval", 2*time.Second, "how often policy and certificate files are checked for changes")
	f.StringVar(&s.logFormat, "log-format", "text", "text or json")
	f.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
}

// fill sets the flags that the command line left out from the environment, and checks the whole.
func (s *options) fill(flags *pflag.FlagSet) error {
	storeGiven := flags.Changed("store")
	var faults []error
	flags.VisitAll(func(f *pflag.Flag) {
		value, ok := os.LookupEnv(settings.Variable(f.Name))
		if f.Changed || !ok || value == "" || f.Name == "help" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", settings.Variable(f.Name), err))
		}
		storeGiven = storeGiven || f.Name == "store"
	})
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	s.FromEnvironment(storeGiven)
	return s.check()
}

// check finds what no flag's type can.
func (s *options) check() error {
	if s.Policy == "" {
		return fmt.Errorf("no policy, which says what a key may have: give --policy FILE|DIR or %s, the same as the servers'", settings.Variable("policy"))
	}
	if err := s.CheckPepper(); err != nil {
		return err
	}
	if err := new(slog.LevelVar).UnmarshalText([]byte(s.logLevel)); err != nil {
		return fmt.Errorf("--log-level: unknown value %q, want debug, info, warn or error", s.logLevel)
	}
	if s.logFormat != "text" && s.logFormat != "json" {
		return fmt.Errorf("--log-format: unknown value %q, want text or json", s.logFormat)
	}
	if s.reloadInterval <= 0 {
		return fmt.Errorf("--reload-interval: %s is not more than 0", s.reloadInterval)
	}
	if (s.tlsCert == "") != (s.tlsKey == "") {
		return errors.New("--tls-cert and --tls-key: give both")
	}
	proxies, err := s.proxies()
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(s.address)
	if err != nil {
		return fmt.Errorf("--manage-address: %q is not HOST:PORT", s.address)
	}
	if !loopback(host) && s.tlsCert == "" && len(proxies) == 0 {
		return fmt.Errorf("--manage-address: others can reach %s, and would send tokens and get keys in plain text; give --tls-cert, or --trusted-proxies with the addresses of those that end TLS", s.address)
	}
	return nil
}

func loopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return err == nil && address.Unmap().IsLoopback() || host == "localhost"
}

// proxies are the peers of --trusted-proxies.
func (s *options) proxies() (list []netip.Prefix, err error) {
	for text := range strings.SplitSeq(s.trusted, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			address, err := netip.ParseAddr(text)
			if err != nil {
				return nil, fmt.Errorf("--trusted-proxies: %q is neither an address nor a CIDR", text)
			}
			prefix = netip.PrefixFrom(address.Unmap().WithZone(""), address.Unmap().BitLen())
		}
		list = append(list, prefix.Masked())
	}
	return list, nil
}
