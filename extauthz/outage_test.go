package extauthz_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
)

func TestStoreAway(t *testing.T) {
	away := func(context.Context) (keys.Grant, error) { return keys.Grant{}, errors.New("connection refused") }
	unspent := func(context.Context) (limits.Result, error) {
		return limits.Result{}, errors.New("connection refused")
	}
	t.Run("undecided: body", func(t *testing.T) {
		s, resp, err := extauthztest.AskBroken(t, extauthztest.SmallFile(), extauthztest.BrokenStore{OnLookup: away}, nil)
		if err != nil || resp.GetDeniedResponse().GetStatus().GetCode() != 500 {
			t.Fatalf("%v, %v", resp, err)
		}
		if got := resp.GetDeniedResponse().GetBody(); got != `{"error":{"code":"internal_error","message":"Our fault."}}` {
			t.Errorf("body %s", got)
		}
		mustTell(t, s.Registry, `tollgate_store_errors_total{operation="lookup"} 1`, `tollgate_store_errors_total{operation="spend"} 0`, `tollgate_store_errors_total{operation="unvouched"} 0`)
	})
	t.Run("undecided: rpc", func(t *testing.T) {
		_, resp, err := extauthztest.AskBroken(t, extauthztest.SmallFile("errors:", "undecided: rpc\nerrors:"), extauthztest.BrokenStore{OnLookup: away}, nil)
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%v, %v", resp, err)
		}
	})
	for mode, allowed := range map[string]bool{"closed": false, "open": true, "local": true} {
		t.Run("failure_mode: "+mode, func(t *testing.T) {
			file := extauthztest.SmallFile("{name: basic,", "{name: basic, failure_mode: "+mode+",")
			_, resp, err := extauthztest.AskBroken(t, file, extauthztest.BrokenStore{OnLookup: extauthztest.Found, OnSpend: unspent}, nil)
			if err != nil || resp.GetStatus().GetCode() == 0 != allowed {
				t.Errorf("%v, %v", resp, err)
			}
			if got := resp.GetDynamicMetadata().GetFields()["failure_mode"].GetStringValue(); allowed && got != mode {
				t.Errorf("failure_mode %q in the metadata", got)
			}
		})
	}
	t.Run("corrupt record is no matter for failure_mode_allow", func(t *testing.T) {
		corrupt := func(context.Context) (keys.Grant, error) {
			return keys.Grant{}, &keys.CorruptError{ID: "key_small", Err: errors.New("unexpected end of JSON input")}
		}
		s, resp, err := extauthztest.AskBroken(t, extauthztest.SmallFile("errors:", "undecided: rpc\nerrors:"), extauthztest.BrokenStore{OnLookup: corrupt}, nil)
		if err != nil || resp.GetDeniedResponse().GetStatus().GetCode() != 500 {
			t.Fatalf("%v, %v", resp, err)
		}
		if !strings.Contains(s.Log.String(), "key_small") {
			t.Errorf("the log does not name the record: %s", s.Log)
		}
	})
	t.Run("nil key without an error", func(t *testing.T) {
		nothing := func(context.Context) (keys.Grant, error) { return keys.Grant{}, nil }
		if _, resp, err := extauthztest.AskBroken(t, extauthztest.SmallFile(), extauthztest.BrokenStore{OnLookup: nothing}, nil); err != nil || resp.GetStatus().GetCode() == 0 {
			t.Errorf("%v, %v", resp, err)
		}
	})
	t.Run("empty result without an error", func(t *testing.T) {
		nothing := func(context.Context) (limits.Result, error) { return limits.Result{}, nil }
		if _, resp, err := extauthztest.AskBroken(t, extauthztest.SmallFile(), extauthztest.BrokenStore{OnLookup: extauthztest.Found, OnSpend: nothing}, nil); err == nil && resp.GetStatus().GetCode() == 0 {
			t.Errorf("allowed: %v", resp)
		}
	})
}

// A store that hangs is answered within our own deadline.
func TestDeadlineOfOurOwn(t *testing.T) {
	hang := func(ctx context.Context) (keys.Grant, error) {
		<-ctx.Done()
		return keys.Grant{}, ctx.Err()
	}
	_, resp, err := extauthztest.AskBroken(t, extauthztest.SmallFile(), extauthztest.BrokenStore{OnLookup: hang}, func(c *extauthz.Config) { c.Deadline = time.Millisecond })
	if err != nil || resp.GetDeniedResponse().GetStatus().GetCode() != 500 {
		t.Errorf("%v, %v", resp, err)
	}
}

// failure_mode is for a store that is away, never for limits that are broken.
func TestBrokenLimitsAreNoOutage(t *testing.T) {
	for _, mode := range []string{"open", "local"} {
		s := extauthztest.NewStack(t, nil, extauthztest.SmallFile("{name: basic,", "{name: basic, failure_mode: "+mode+","))
		client := extauthztest.NewRedis(t, "embedded")
		secret, entries := extauthztest.SmallKey()
		s.Use(t, client, entries)
		if err := client.HSet(extauthztest.Within(t), "tg:v1:count:{key_small}", "minute:minute", "garbage").Err(); err != nil {
			t.Fatal(err)
		}
		resp, err := authv3.NewAuthorizationClient(s.Dial(t)).Check(extauthztest.Within(t), extauthztest.Get("/items/1", map[string]string{"authorization": "Bearer " + secret}))
		if err != nil || resp.GetDeniedResponse().GetStatus().GetCode() != 500 {
			t.Errorf("%s: %v, %v", mode, resp, err)
		}
	}
}
