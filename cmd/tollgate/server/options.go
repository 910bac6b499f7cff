package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"tollgate/cmd/tollgate/listen"
	"tollgate/cmd/tollgate/memory"
	"tollgate/cmd/tollgate/settings"
	"tollgate/extauthz"
	"tollgate/policy/alerts/mail"
)

// The values of --limits.
const (
	LimitsAuto  = "auto"
	LimitsExact = "exact"
)

// options are what `tollgate serve` runs with. A flag, a TOLLGATE_ variable and
// a key of the config file say the same, in this order of precedence.
type options struct {
	settings.Shared // policy is required

	configFile string
	keys       string // file or directory; none if empty

	cacheKeys int
	cacheTTL  time.Duration

	grpcAddress      string // HOST:PORT or unix:PATH
	httpAddress      string // HOST:PORT
	authzHTTPAddress string // HOST:PORT or unix:PATH; empty: none over HTTP
	authzHTTPTrusted string // CIDRs, joined with commas
	addressesFile    string
	pprofAddress     string // HOST:PORT on the loopback; none if empty

	tlsCert, tlsKey, tlsClientCA string

	deadline       time.Duration // of one decision
	drainDelay     time.Duration
	drainDelayed   bool // somebody has set drainDelay
	drainTimeout   time.Duration
	reloadInterval time.Duration
	replicas       int
	limits         string // LimitsAuto or LimitsExact
	usage          bool
	errorLog       bool

	alertWebhook    string // a URL, which may be a secret; empty: none
	alertSecretFile string
	alertSlackFile  string // with a URL
	alertMail       mail.Config
	alertMailSecret string // file
	alertAllow      string // addresses and CIDRs, joined with commas

	logFormat      string
	logLevel       string
	logDecisions   string
	logDecisionsTo string // DecisionsToLog and so on
	reflection     bool
}

// newFlags returns the flags of serve, which write to s.
func newFlags(s *options) *pflag.FlagSet {
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	f.SortFlags = false
	f.StringVar(&s.configFile, "config", "", "YAML file with these settings; its keys are the names of the flags")
	f.StringVar(&s.Policy, "policy", "", "policy file, or directory of policy files (required)")
	f.StringVar(&s.keys, "keys", "", "keys file, or directory of keys files; adds the keys that the store has never seen")
	f.StringVar(&s.Store, "store", settings.EmbeddedStore, "where keys and counters are: memory (in this process, lost when it ends), or the URL of a Redis")
	f.StringVar(&s.Socket, "store-socket", "", "unix socket of the memory store (default $XDG_RUNTIME_DIR/tollgate/store.sock, else below the temporary directory)")
	f.StringVar(&s.PepperFile, "pepper-file", "", "file with the secret that keys are hashed with; or the secret itself in TOLLGATE_PEPPER")
	f.StringVar(&s.OlderPeppers, "older-peppers", "", "files with earlier peppers, joined with commas, the likeliest first; none = no pepper, sha256 = SHA-256 instead of HMAC; keys found by one are rehashed")
	f.IntVar(&s.cacheKeys, "cache-keys", memory.DefaultKeys, "keys held in memory at most, about 220 bytes each, up to 800 with the longest names, more with address lists of their own")
	f.DurationVar(&s.cacheTTL, "cache-ttl", 30*time.Second, "how old a key in memory gets before it is read again, one in use a quarter of that earlier; changes arrive at once unless their message is lost")
	f.StringVar(&s.grpcAddress, "grpc-address", "127.0.0.1:9001", "address for Envoy: HOST:PORT or unix:PATH; port 0 picks one")
	f.StringVar(&s.httpAddress, "http-address", "127.0.0.1:9002", "address of /livez, /readyz, /metrics and /access-logs: HOST:PORT; port 0 picks one")
	f.StringVar(&s.authzHTTPAddress, "authz-http-address", "", "address for proxies that ask over HTTP (Envoy's http_service, nginx, Caddy, Traefik): HOST:PORT or unix:PATH; empty serves none")
	f.StringVar(&s.authzHTTPTrusted, "authz-http-trusted", "", "addresses and CIDRs of those proxies, joined with commas; connections from others are closed (default loopback; with --tls-client-ca whoever has a certificate)")
	f.StringVar(&s.addressesFile, "addresses-file", "", "file that gets the chosen addresses as JSON once the server is ready")
	f.StringVar(&s.pprofAddress, "pprof-address", "", "loopback address of Go's profiler (/debug/pprof/), which shows memory and may slow the server down; port 0 picks one")
	f.StringVar(&s.tlsCert, "tls-cert", "", "PEM certificate of the gRPC port and of --authz-http-address; read again when it changes")
	f.StringVar(&s.tlsKey, "tls-key", "", "PEM key of --tls-cert")
	f.StringVar(&s.tlsClientCA, "tls-client-ca", "", "PEM certificates of the CA whose clients alone are served (mTLS)")
	f.DurationVar(&s.deadline, "deadline", extauthz.DefaultDeadline, "time for one decision, the store included")
	f.DurationVar(&s.drainDelay, "drain-delay", DefaultDrainDelay, "how long health checks and /readyz say no at the end before the ports close, so that proxies notice; unless it is set, SIGINT does not wait")
	f.DurationVar(&s.drainTimeout, "drain-timeout", 20*time.Second, "time that calls under way have to end after that")
	f.DurationVar(&s.reloadInterval, "reload-interval", 2*time.Second, "how often policy and certificate files are checked for changes")
	f.IntVar(&s.replicas, "replicas", 1, "how many servers share the limits, for plans with failure_mode local, and the requests that alerts count")
	f.StringVar(&s.limits, "limits", LimitsAuto, "auto or exact: exact counts each request in the store, whatever the plans say; auto lets servers lease up to 2 % of what is left in advance")
	f.BoolVar(&s.usage, "usage", true, "count what is done with each key, for tollgate usage")
	s.HistoryFlags(f, "that gets what is counted, too")
	f.BoolVar(&s.errorLog, "error-log", true, "keep some of the requests that are refused or fail, for tollgate errors")
	f.StringVar(&s.alertWebhook, "alert-webhook", "", "https URL that gets what the policies' alerts tell of, signed as Standard Webhooks has it; without one they are in the log alone")
	f.StringVar(&s.alertSecretFile, "alert-secret-file", "", "file with what messages to --alert-webhook are signed with: whsec_ and the base64 of 24 to 64 random bytes")
	f.StringVar(&s.alertSlackFile, "alert-slack-url-file", "", "file with the https URL of an incoming webhook of Slack, or one that takes the same (Mattermost, Discord's /slack), that gets them too")
	f.StringVar(&s.alertMail.Server, "alert-mail-server", "", "server that gets them as mail, too: smtps://HOST[:PORT], or smtp://HOST[:PORT] for STARTTLS")
	f.StringVar(&s.alertMail.From, "alert-mail-from", "", "address that --alert-mail-server is told they are from")
	f.StringVar(&s.alertMail.To, "alert-mail-to", "", "addresses that get the mail, joined with commas")
	f.StringVar(&s.alertMail.User, "alert-mail-user", "", "user of --alert-mail-server, if it wants one")
	f.StringVar(&s.alertMailSecret, "alert-mail-password-file", "", "file with the password of --alert-mail-user")
	f.StringVar(&s.alertAllow, "alert-allow", "", "addresses and CIDRs outside of the public internet, joined with commas, to which alerts may go")
	f.StringVar(&s.logFormat, "log-format", "text", "text or json")
	f.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&s.logDecisions, "log-decisions", string(extauthz.LogDenied), "decisions to log: none, denied, all, or reasons, joined with commas; =SHARE logs a part (denied,allowed=1%)")
	f.StringVar(&s.logDecisionsTo, "log-decisions-to", DecisionsToLog, "log: among the other lines of the log, at most 100 per second and reason; stdout: a line of JSON each, on standard output; otlp: a log record each, to where OTEL_EXPORTER_OTLP_ENDPOINT says; clickhouse: a row each, to --usage-clickhouse")
	f.BoolVar(&s.reflection, "reflection", false, "offer gRPC server reflection")
	return f
}

// fill sets the flags that the command line left out from the environment, then
// from the config file, and checks the whole.
func (s *options) fill(flags *pflag.FlagSet) error {
	v := viper.New()
	v.SetEnvPrefix(settings.EnvPrefix)
	v.SetEnvKeyReplacer(strings.NewReplacer("-", "_"))
	v.AutomaticEnv()
	if !flags.Changed("config") {
		s.configFile = v.GetString("config")
	}
	if s.configFile != "" {
		values, err := settings.ReadConfig(s.configFile, flags)
		if err != nil {
			return err
		}
		if err := v.MergeConfigMap(values); err != nil {
			return fmt.Errorf("%s: %w", s.configFile, err)
		}
	}
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "config" || !v.IsSet(f.Name) {
			return
		}
		// The config file's values have been tried already, so this is the variable.
		if err := flags.Set(f.Name, v.GetString(f.Name)); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", settings.Variable(f.Name), err))
		}
	})
	s.FromEnvironment(flags.Changed("store"))
	s.drainDelayed = flags.Changed("drain-delay")
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return s.check()
}

// check finds what no flag's type can: the first mistake is the error.
func (s *options) check() error {
	if s.Policy == "" {
		return fmt.Errorf("no policy: give --policy FILE|DIR or %s", settings.Variable("policy"))
	}
	if _, err := extauthz.ParseDecisions(s.logDecisions); err != nil {
		return fmt.Errorf("--log-decisions: %w", err)
	}
	if err := new(slog.LevelVar).UnmarshalText([]byte(s.logLevel)); err != nil {
		return fmt.Errorf("--log-level: unknown value %q, want debug, info, warn or error", s.logLevel)
	}
	if s.logFormat != "text" && s.logFormat != "json" {
		return fmt.Errorf("--log-format: unknown value %q, want text or json", s.logFormat)
	}
	if err := s.checkDecisionsTo(); err != nil {
		return err
	}
	if s.limits != LimitsAuto && s.limits != LimitsExact {
		return fmt.Errorf("--limits: unknown value %q, want %s or %s", s.limits, LimitsAuto, LimitsExact)
	}
	for flag, d := range map[string]time.Duration{"deadline": s.deadline, "reload-interval": s.reloadInterval, "cache-ttl": s.cacheTTL} {
		if d <= 0 {
			return fmt.Errorf("--%s: %s is not more than 0", flag, d)
		}
	}
	for flag, d := range map[string]time.Duration{"drain-delay": s.drainDelay, "drain-timeout": s.drainTimeout} {
		if d < 0 {
			return fmt.Errorf("--%s: %s is less than 0", flag, d)
		}
	}
	for flag, n := range map[string]int{"replicas": s.replicas, "cache-keys": s.cacheKeys} {
		if n < 1 {
			return fmt.Errorf("--%s: %d is less than 1", flag, n)
		}
	}
	if err := errors.Join(s.CheckPepper(), s.CheckHistory()); err != nil {
		return err
	}
	if err := checkAddress("grpc-address", s.grpcAddress); err != nil {
		return err
	}
	if err := s.checkAuthzHTTP(); err != nil {
		return err
	}
	if _, _, err := net.SplitHostPort(s.httpAddress); err != nil {
		return fmt.Errorf("--http-address: %q is not HOST:PORT", s.httpAddress)
	}
	return s.checkPprof()
}

// checkPprof keeps the profiler away from the network: it has no credentials of
// its own, and what it shows includes what requests carry.
func (s *options) checkPprof() error {
	if s.pprofAddress == "" {
		return nil
	}
	address, err := netip.ParseAddrPort(s.pprofAddress)
	if err != nil || !address.Addr().IsLoopback() {
		return fmt.Errorf("--pprof-address: %q is not IP:PORT on the loopback", s.pprofAddress)
	}
	return nil
}

func checkAddress(flag, address string) error {
	if path, ok := strings.CutPrefix(address, listen.UnixPrefix); ok {
		if path == "" {
			return fmt.Errorf("--%s: %q names no path", flag, address)
		}
	} else if _, _, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("--%s: %q is neither HOST:PORT nor unix:PATH", flag, address)
	}
	return nil
}
