package connect

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// env reads "NAME=value NAME=value".
func env(list string) func(string) string {
	return func(name string) string {
		for pair := range strings.FieldsSeq(list) {
			if value, ok := strings.CutPrefix(pair, name+"="); ok {
				return value
			}
		}
		return ""
	}
}

func TestRateLimitServiceNames(t *testing.T) {
	t.Parallel()
	const second = time.Second
	for list, want := range map[string]target{
		"REDIS_URL=db:6379": {addresses: []string{"db:6379"}},
		"REDIS_URL=db REDIS_TYPE=SINGLE REDIS_SOCKET_TYPE=tcp REDIS_AUTH=pw": {addresses: []string{"db:6379"}, password: "pw"},
		"REDIS_URL=db REDIS_AUTH=me:p:w REDIS_POOL_SIZE=20 REDIS_TIMEOUT=1s": {addresses: []string{"db:6379"}, user: "me", password: "p:w", poolSize: 20, dialTimeout: second, readTimeout: second, writeTimeout: second},
		"REDIS_URL=/run/redis.sock REDIS_SOCKET_TYPE=unix":                   {network: "unix", addresses: []string{"/run/redis.sock"}},
		"REDIS_URL=/run/redis.sock":                                          {network: "unix", addresses: []string{"/run/redis.sock"}},
		"REDIS_URL=a:1,b:2 REDIS_TYPE=cluster":                               {kind: cluster, addresses: []string{"a:1", "b:2"}},
		"REDIS_URL=main,a:1 REDIS_TYPE=Sentinel":                             {kind: sentinel, master: "main", addresses: []string{"a:1"}},
		"REDIS_URL=db REDIS_TYPE=single REDIS_SOCKET_TYPE=tcp":               {addresses: []string{"db:6379"}},
		"REDIS_URL=a:1,b:2 REDIS_TYPE=CLUSTER REDIS_SENTINEL_AUTH=ignored":   {kind: cluster, addresses: []string{"a:1", "b:2"}},
		"REDIS_URL=main,a:1,b REDIS_TYPE=SENTINEL REDIS_SENTINEL_AUTH=spw":   {kind: sentinel, master: "main", addresses: []string{"a:1", "b:26379"}, sentinelPassword: "spw"},
		"REDIS_URL=main,a REDIS_TYPE=SENTINEL REDIS_SENTINEL_AUTH=u:p":       {kind: sentinel, master: "main", addresses: []string{"a:26379"}, sentinelUser: "u", sentinelPassword: "p"},
		"REDIS_URL=db REDIS_TLS=false REDIS_TLS_CACERT=ca":                   {addresses: []string{"db:6379"}},
		"REDIS_URL=db REDIS_SOCKET_TYPE=tls":                                 {addresses: []string{"db:6379"}, tls: tlsFiles{on: true}},
		"REDIS_URL=rediss://me:pw@db/2 REDIS_TLS=false REDIS_TLS_CACERT=ca":  {addresses: []string{"db:6379"}, user: "me", password: "pw", db: 2, tls: tlsFiles{on: true, ca: "ca"}},
		"REDIS_URL=redis+cluster://a,b REDIS_AUTH=pw":                        {kind: cluster, addresses: []string{"a:6379", "b:6379"}, password: "pw"},
		"REDIS_URL=db REDIS_TLS=true REDIS_TLS_CACERT=ca REDIS_TLS_CLIENT_CERT=c REDIS_TLS_CLIENT_KEY=k REDIS_TLS_SKIP_HOSTNAME_VERIFICATION=true": {
			addresses: []string{"db:6379"}, tls: tlsFiles{on: true, ca: "ca", cert: "c", key: "k", anyName: true}},
	} {
		if want.network == "" {
			want.network = "tcp"
		}
		got, err := Options{Env: env(list)}.target()
		if err != nil {
			t.Errorf("%s: %v", list, err)
		} else if !reflect.DeepEqual(*got, want) {
			t.Errorf("%s:\n%+v\nwant\n%+v", list, *got, want)
		}
	}
	got, err := Options{URL: "redis://a", Env: env("REDIS_URL=b REDIS_AUTH=pw")}.target()
	if err != nil || got.addresses[0] != "a:6379" || got.password != "" {
		t.Errorf("the URL does not win: %+v, %v", got, err)
	}
}

func TestBadVariables(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]string{
		"REDIS_AUTH=hunter2":                              "no URL",
		"REDIS_URL=db:hunter2":                            "REDIS_URL: a port is not",
		"REDIS_URL=redis://:hunter2":                      `REDIS_URL "redis://xxxxx": a port is not`,
		"REDIS_URL=redis://db REDIS_TYPE=SINGLE":          "unset these",
		"REDIS_URL=redis://:hunter2@db REDIS_AUTH=hun":    "REDIS_AUTH: the URL has a password already",
		"REDIS_URL=db REDIS_TYPE=clusters":                "REDIS_TYPE: want SINGLE, SENTINEL or CLUSTER",
		"REDIS_URL=db REDIS_SOCKET_TYPE=udp":              "REDIS_SOCKET_TYPE: want tcp, tls or unix",
		"REDIS_URL=db REDIS_SOCKET_TYPE=unix":             "REDIS_URL: a unix socket is one server",
		"REDIS_URL=/s REDIS_TYPE=CLUSTER":                 "REDIS_URL: a unix socket is one server",
		"REDIS_URL=/s REDIS_TLS=true":                     "there is no TLS over a unix socket",
		"REDIS_URL=main REDIS_TYPE=SENTINEL":              "MASTER,HOST:PORT",
		"REDIS_URL=,a:1 REDIS_TYPE=SENTINEL":              "MASTER,HOST:PORT",
		"REDIS_URL=a,b":                                   "REDIS_URL: it names several hosts",
		"REDIS_URL=db REDIS_AUTH=hunter2:":                "REDIS_AUTH: there is no password after the user",
		"REDIS_URL=db REDIS_TLS=hunter2":                  "REDIS_TLS: want true or false",
		"REDIS_URL=db REDIS_POOL_SIZE=-1":                 "REDIS_POOL_SIZE: want a number",
		"REDIS_URL=db REDIS_TIMEOUT=hunter2":              "REDIS_TIMEOUT: want a duration",
		"REDIS_URL=db REDIS_TLS=1 REDIS_TLS_CLIENT_KEY=k": "both a certificate",
	} {
		_, _, err := Open(Options{Env: env(list)})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", list, err, want)
		} else if strings.Contains(err.Error(), "hun") {
			t.Errorf("%s: the error shows the password: %v", list, err)
		}
	}
}
