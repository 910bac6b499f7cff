package server

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"tollgate/cmd/tollgate/settings"
	"tollgate/cmd/tollgate/tollgatetest"
)

func TestMain(m *testing.M) {
	flag.Bool("update", false, "write the flag table of cmd/tollgate/README.md instead of comparing it")
	os.Exit(m.Run())
}

// samples returns a value for each flag that is not its default.
func samples() map[string]string {
	return map[string]string{
		"policy": "p.yaml", "keys": "k.yaml", "store": "redis://db:6379/0", "store-socket": "s.sock", "pepper-file": "pepper",
		"older-peppers": "none,/older", "cache-keys": "1000", "cache-ttl": "5s",
		"grpc-address": "unix:g.sock", "http-address": "0.0.0.0:80", "addresses-file": "a.json", "pprof-address": "[::1]:6060",
		"authz-http-address": "0.0.0.0:81", "authz-http-trusted": "10.0.0.0/8,192.0.2.1",
		"tls-cert": "c.pem", "tls-key": "k.pem", "tls-client-ca": "ca.pem",
		"deadline": "50ms", "drain-delay": "7s", "drain-timeout": "1m0s", "reload-interval": "10s", "replicas": "3", "limits": "exact",
		"log-format": "json", "log-level": "debug", "log-decisions": "all", "log-decisions-to": "stdout", "usage": "false", "error-log": "false", "alert-webhook": "https://hooks.example.com/x", "alert-secret-file": "secret", "alert-allow": "10.1.0.0/16", "alert-slack-url-file": "slack", "alert-mail-server": "smtps://mail.example.com", "alert-mail-from": "a@example.com", "alert-mail-to": "b@example.com", "alert-mail-user": "u", "alert-mail-password-file": "password",
		"usage-clickhouse": "https://u@h/d", "usage-clickhouse-password-file": "password",
		"reflection": "true",
	}
}

// fill returns the settings that these arguments give.
func fill(t *testing.T, args ...string) options {
	t.Helper()
	var s options
	flags := newFlags(&s)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	if err := s.fill(flags); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFlagVariableAndFileSayTheSame(t *testing.T) {
	var args []string
	var file strings.Builder
	defaults := newFlags(&options{})
	samples := samples()
	defaults.VisitAll(func(f *pflag.Flag) {
		if f.Name == "config" {
			return
		}
		value, ok := samples[f.Name]
		if !ok || value == f.DefValue {
			t.Errorf("no sample for --%s, or its default", f.Name)
		}
		args = append(args, "--"+f.Name+"="+value)
		if f.Value.Type() == "string" {
			value = fmt.Sprintf("%q", value)
		}
		fmt.Fprintf(&file, "%s: %s\n", f.Name, value)
	})
	byFlag := fill(t, args...)

	config := filepath.Join(t.TempDir(), "config.yaml")
	tollgatetest.WriteFile(t, config, []byte(file.String()))
	byFile := fill(t, "--config", config)
	byFile.configFile = ""
	if !reflect.DeepEqual(byFile, byFlag) {
		t.Errorf("file:\n%+v\nflags:\n%+v", byFile, byFlag)
	}

	for name, value := range samples {
		t.Setenv(settings.Variable(name), value)
	}
	if byVariable := fill(t); !reflect.DeepEqual(byVariable, byFlag) {
		t.Errorf("variables:\n%+v\nflags:\n%+v", byVariable, byFlag)
	}
}

func TestPrecedence(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.yaml")
	tollgatetest.WriteFile(t, config, []byte("policy: file\nlog-format: json\nlog-level: error\nreplicas: 2\n"))
	t.Setenv("TOLLGATE_CONFIG", config)
	t.Setenv("TOLLGATE_LOG_FORMAT", "text")
	t.Setenv("TOLLGATE_LOG_LEVEL", "warn")
	t.Setenv("TOLLGATE_REPLICAS", "")
	s := fill(t, "--log-level", "debug")
	if s.Policy != "file" || s.logFormat != "text" || s.logLevel != "debug" || s.replicas != 2 {
		t.Errorf("%+v; want the file's policy and replicas (an empty variable is none), the variable's format, the flag's level", s)
	}
	t.Setenv("TOLLGATE_PEPPER", "secret")
	if s := fill(t); s.PepperText != "secret" {
		t.Errorf("TOLLGATE_PEPPER: %q", s.PepperText)
	}
}

// The table stands in cmd/tollgate/README.md between these two lines.
const (
	tableBegin = "<!-- flags -->\n"
	tableEnd   = "<!-- /flags -->\n"
)

// flagTable renders the configuration table of the page from the real flags.
func flagTable() string {
	var b strings.Builder
	b.WriteString("| flag | variable | default | what |\n| --- | --- | --- | --- |\n")
	newFlags(&options{}).VisitAll(func(f *pflag.Flag) {
		value := "none"
		if f.DefValue != "" {
			value = "`" + f.DefValue + "`"
		}
		fmt.Fprintf(&b, "| `--%s` | `%s` | %s | %s |\n", f.Name, settings.Variable(f.Name), value, strings.ReplaceAll(f.Usage, "|", `\|`))
	})
	return b.String()
}

// Run with -update to write the table into the page.
func TestFlagsOnThePage(t *testing.T) {
	const readme = "../README.md"
	data, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := bytes.Cut(data, []byte(tableBegin))
	table, after, end := bytes.Cut(rest, []byte(tableEnd))
	if !ok || !end {
		t.Fatalf("cmd/tollgate/README.md needs the lines %q and %q, with the table of flags between them", tableBegin, tableEnd)
	}
	want := flagTable()
	if strings.TrimSpace(string(table)) == strings.TrimSpace(want) {
		return
	}
	if flag.Lookup("update").Value.String() != "true" {
		t.Fatalf("the table of flags in cmd/tollgate/README.md is not the one of the binary; run: go test ./cmd/tollgate/server -run Flags -update\nwant:\n%s", want)
	}
	if err := os.WriteFile(readme, fmt.Appendf(nil, "%s%s\n%s\n%s%s", before, tableBegin, want, tableEnd, after), 0o644); err != nil {
		t.Fatal(err)
	}
}
