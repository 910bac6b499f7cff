package extauthztest

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/extauthz"
	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
	"tollgate/policy/policyfile"
	"tollgate/policy/usage"
)

// Store is where a test has keys and limits from.
type Store interface {
	extauthz.KeyFinder
	extauthz.Spender
}

// AuthorizerOf decides by one policy file, with changes of its configuration, and keeps no log.
func AuthorizerOf(t testing.TB, file policyfile.File, s Store, changes ...func(*extauthz.Config)) *extauthz.Authorizer {
	t.Helper()
	metrics := extauthz.NewMetrics(prometheus.NewRegistry())
	policies := FixedPolicies(t, metrics, file)
	config := extauthz.Config{
		Policies: policies, Counts: usage.NewCounter(0, policies.FindRoute),
		Decider: policy.NewDecider(keys.NewHasher([]byte("pepper")), limits.NewLocal(1, time.Now, 10), time.Now),
		Keys:    s, Limits: s, Metrics: metrics, Log: slog.New(slog.DiscardHandler), Decisions: extauthz.LogAll,
	}
	for _, change := range changes {
		change(&config)
	}
	return extauthz.New(config)
}

// TextsIn collects the texts and bytes in a value, up to the capacity of its slices.
func TextsIn(v reflect.Value) (list []string) {
	switch v.Kind() {
	case reflect.String:
		list = append(list, v.String())
	case reflect.Struct:
		for i := range v.NumField() {
			list = append(list, TextsIn(v.Field(i))...)
		}
	case reflect.Slice:
		v = v.Slice(0, v.Cap())
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return append(list, string(v.Bytes()))
		}
		for i := range v.Len() {
			list = append(list, TextsIn(v.Index(i))...)
		}
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() && v.Type() != reflect.TypeFor[*strings.Builder]() { // it points to itself
			list = append(list, TextsIn(v.Elem())...)
		}
	}
	return list
}

// FixedPolicies holds policies that nobody changes.
func FixedPolicies(t testing.TB, m *extauthz.Metrics, files ...policyfile.File) *extauthz.Policies {
	t.Helper()
	dir := t.TempDir()
	for i, f := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := extauthz.LoadPolicies(dir, slog.New(slog.DiscardHandler), m, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
