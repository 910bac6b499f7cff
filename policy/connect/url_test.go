package connect

import (
	"errors"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestURLs(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]target{
		"redis://db":                     {addresses: []string{"db:6379"}},
		"redis://db/":                    {addresses: []string{"db:6379"}},
		"redis://db:7000/3":              {addresses: []string{"db:7000"}, db: 3},
		"redis://[::1]:7000":             {addresses: []string{"[::1]:7000"}},
		"redis://[::1]":                  {addresses: []string{"[::1]:6379"}},
		"redis://:p%40%2F%3A@db":         {addresses: []string{"db:6379"}, password: "p@/:"},
		"redis://me:a:b@db/1":            {addresses: []string{"db:6379"}, user: "me", password: "a:b", db: 1},
		"rediss://me:pw@db":              {addresses: []string{"db:6379"}, user: "me", password: "pw", tls: tlsFiles{on: true}},
		"unix:///run/redis.sock?db=2":    {network: "unix", addresses: []string{"/run/redis.sock"}, db: 2},
		"unix://me:pw@/run/a%20b.sock":   {network: "unix", addresses: []string{"/run/a b.sock"}, user: "me", password: "pw"},
		"redis+cluster://a,b:1,[::2]:2/": {kind: cluster, addresses: []string{"a:6379", "b:1", "[::2]:2"}},
		"rediss+cluster://a?tls_ca=ca&tls_cert=c&tls_key=k&tls_server_name=n": {kind: cluster, addresses: []string{"a:6379"},
			tls: tlsFiles{on: true, ca: "ca", cert: "c", key: "k", serverName: "n"}},
		"redis+sentinel://me:pw@a,b:1/main/2?sentinel_username=su&sentinel_password=s+p": {kind: sentinel,
			addresses: []string{"a:26379", "b:1"}, master: "main", db: 2, user: "me", password: "pw", sentinelUser: "su", sentinelPassword: "s+p"},
		"rediss+sentinel://a/main?tls_skip_hostname_verification=true": {kind: sentinel, addresses: []string{"a:26379"},
			master: "main", tls: tlsFiles{on: true, anyName: true}},
		"redis://db?dial_timeout=2&read_timeout=50ms&write_timeout=1s&pool_timeout=3&conn_max_idle_time=1m&conn_max_lifetime=1h&pool_size=7&min_idle_conns=2&client_name=tollgate": {
			addresses: []string{"db:6379"}, dialTimeout: 2 * time.Second, readTimeout: 50 * time.Millisecond, writeTimeout: time.Second,
			poolTimeout: 3 * time.Second, maxIdleTime: time.Minute, maxLifetime: time.Hour, poolSize: 7, minIdle: 2, clientName: "tollgate"},
	} {
		if want.network == "" {
			want.network = "tcp"
		}
		got, err := parseURL(raw)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
		} else if !reflect.DeepEqual(*got, want) {
			t.Errorf("%s:\n%+v\nwant\n%+v", raw, *got, want)
		}
	}
}

func TestBadURLs(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"memroy":                                   "its scheme is none of redis://",
		"postgres://me:hunter2@db":                 "its scheme is none of",
		"redis+other://db":                         "its scheme is none of",
		"unix+sentinel:///a":                       "its scheme is none of",
		"redis://":                                 "a host is missing",
		"redis:///0":                               "a host is missing",
		"redis://,":                                "a host is missing",
		"redis://a,b":                              "several hosts: say redis+sentinel:// or redis+cluster://",
		"redis://hunter2@db":                       "there is no password after its user; a password alone is written :PASSWORD@",
		"redis://me:@db":                           "there is no password",
		"redis://:hunter2":                         "a port is not a number from 1 to 65535; a password ends with @",
		"redis://db:0":                             "a port is not",
		"redis://db:65536":                         "a port is not",
		"redis://db:":                              "a port is not",
		"redis://[::1]7000":                        "a port is not",
		"redis://[db]:7000":                        "not an IPv6 address",
		"redis://hun ter2":                         "a host holds a character",
		"redis://me:hun/ter2@db":                   "not a URL; in user and password write",
		"redis://me:hun?ter2@db":                   "not a URL",
		"redis://me:hun#ter2@db":                   "not a URL",
		"redis://me:hun@ter2@db":                   "not a URL",
		"redis://me:hun%zzter2@db":                 "not a URL",
		"redis://db/%zz":                           "not a URL",
		"redis://db/hunter2":                       "invalid database number",
		"redis://db/1/2":                           "invalid database number",
		"redis://db/-1":                            "invalid database number",
		"redis+cluster://a/1":                      "a cluster has no database but 0",
		"redis+sentinel://a":                       "the name of the master is missing",
		"redis+sentinel://a/m/hunter2":             "invalid database number",
		"unix://db/run/s":                          "unix:// has no host",
		"unix://":                                  "unix:// has no path",
		"unix:///s?tls_ca=f":                       "tls_ parameters are for rediss://",
		"redis://db?tls_ca=f":                      "tls_ parameters are for rediss://",
		"redis://db?db=1":                          `unknown parameter "db"`,
		"redis://db?max_retries=3":                 `unknown parameter "max_retries"`,
		"redis://db?Hunter2":                       "unknown parameter after ?",
		"redis://db?pool_size=1&pool_size=":        "parameter pool_size is there twice",
		"redis://db?pool_size=hunter2":             "parameter pool_size: want a number",
		"redis://db?pool_size=0":                   "parameter pool_size: want a number",
		"redis://db?read_timeout=hunter2":          "parameter read_timeout: want a duration",
		"redis://db?read_timeout=0":                "parameter read_timeout: want a duration",
		"redis://db?client_name=":                  "parameter client_name: its value is empty",
		"redis://db?client_name=%zz":               "parameter client_name: a % is written %25",
		"redis://db?sentinel_password=hun":         "sentinel_username and sentinel_password are for redis+sentinel://",
		"redis+sentinel://a/m?sentinel_username=u": "without a sentinel_password",
		"rediss://db?tls_cert=c":                   "both a certificate (tls_cert) and its key (tls_key)",
		"rediss://db?tls_skip_hostname_verification=maybe":             "parameter tls_skip_hostname_verification: want true or false",
		"rediss://db?tls_ca=/nowhere/ca.pem":                           "/nowhere/ca.pem",
		"rediss://db?tls_cert=/nowhere/c.pem&tls_key=/nowhere/key.pem": "/nowhere/c.pem",
	} {
		_, _, err := Open(Options{URL: raw})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", raw, err, want)
		} else if strings.Contains(strings.ToLower(err.Error()), "hun") || strings.Contains(err.Error(), "ter2") {
			t.Errorf("%s: the error shows the password: %v", raw, err)
		}
	}
	if _, _, err := Open(Options{}); !errors.Is(err, ErrNoURL) {
		t.Error(err)
	}
}

func TestDescriptions(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"redis://db":                            "redis://db:6379/0",
		"rediss://me:hunter2@db/1":              "rediss://xxxxx@db:6379/1",
		"unix://:hunter2@/run/s":                "unix://xxxxx@/run/s?db=0",
		"redis+sentinel://:hunter2@a,b/main/3":  "redis+sentinel://xxxxx@a:26379,b:26379/main/3",
		"rediss+cluster://me:hunter2@a,b:1":     "rediss+cluster://xxxxx@a:6379,b:1",
		"redis://db?client_name=hunter2":        "redis://db:6379/0",
		"redis+sentinel://a/m?read_timeout=10s": "redis+sentinel://a:26379/m/0",
	} {
		c, got, err := Open(Options{URL: raw})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if got != want {
			t.Errorf("%s is shown as %s, want %s", raw, got, want)
		}
	}
}

func TestRedact(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"redis://db:6379/0":                      "redis://db:6379/0",
		"redis://[::1]:6379/0":                   "redis://[::1]:6379/0",
		"redis+cluster://a:1,[::1]:2,b":          "redis+cluster://a:1,[::1]:2,b",
		"redis+sentinel://:hunter2@a:1,b:2/main": "redis+sentinel://xxxxx@a:1,b:2/main",
		"redis+sentinel://a,hun:ter2/main":       "redis+sentinel://xxxxx",
		"redis://me:hunter2@db:6379/0":           "redis://xxxxx@db:6379/0",
		"rediss://hunter2@db":                    "rediss://xxxxx@db",
		"redis://:hun@ter2@db":                   "redis://xxxxx@db",
		"redis://:hun/ter2@db":                   "redis://xxxxx@db",
		"redis://:hun#ter2":                      "redis://xxxxx",
		"redis://:hunter2":                       "redis://xxxxx",
		"redis://:hunter2/0":                     "redis://xxxxx",
		"redis://db?client_name=hunter2":         "redis://db?…",
		"redis://:hunter2@db?read_timeout=10s":   "redis://xxxxx@db?…",
		"unix:///run/redis.sock":                 "unix:///run/redis.sock",
		"me:hunter2@db":                          "xxxxx@db",
		"db:hunter2":                             "xxxxx",
	} {
		if got := Redact(raw); got != want {
			t.Errorf("Redact(%q) = %q, want %q", raw, got, want)
		}
	}
}

// No input makes an error show what stands where a password may be.
func FuzzURL(f *testing.F) {
	for _, raw := range []string{"redis://me:%s@db", "redis://:%s", "redis+sentinel://me:%s@a,b/m", "unix://:%s@/s", "redis://db?%s=1", "redis://db/%s"} {
		f.Add(raw, "secretword")
		f.Add(raw, "/secret?word#@")
	}
	f.Fuzz(func(t *testing.T, form, password string) {
		if len(password) < 6 || strings.Contains(form, password) || strings.Contains(schemes+errEscape.Error(), password) {
			return
		}
		_, err := parseURL(strings.Replace(form, "%s", password, 1))
		if err != nil && strings.Contains(err.Error(), password) && strings.Trim(password, "abcdefghijklmnopqrstuvwxyz_") != "" {
			t.Errorf("shown: %v", err)
		}
	})
}

// A cluster's node that has met no other does not know its host.
func TestNamelessNode(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	conn, err := plainDialer(time.Second, "127.0.0.1")(t.Context(), "tcp", ":"+port)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, err := plainDialer(time.Second, "127.0.0.1")(t.Context(), "tcp", "127.0.0.2:"+port); err == nil {
		t.Error("a host that is known is not used")
	}
	if _, err := (&certificates{}).dialer(time.Second, "")(t.Context(), "tcp", "no port"); err == nil {
		t.Error("no error")
	}
}
