package standing

import (
	"errors"
	"strings"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"

	"github.com/redis/go-redis/v9"
)

// standing returns how a server with this Hasher, which just started, stands to its store.
func standing(t *testing.T, c redis.UniversalClient, h *keys.Hasher) (*Standing, State) {
	t.Helper()
	w := New(c, h, Options{Timeout: 10 * time.Second})
	state, err := w.Look(t.Context())
	if err != nil {
		t.Error(err)
	}
	return w, state
}

// notACheck expects an error that says so of what is at the place of the check.
func notACheck(t *testing.T, what string, err error) {
	t.Helper()
	var corrupt *keys.CorruptError
	if !errors.As(err, &corrupt) || corrupt.ID != pepperKey || !strings.Contains(err.Error(), "not a check of a pepper") {
		t.Errorf("%s: %v", what, err)
	}
}

func testPepper(t *testing.T, c redis.UniversalClient) {
	ctx := t.Context()
	method := func(pepper string) keys.Method { return keys.Method{Pepper: []byte(pepper)} }
	first, second := keys.NewHasher([]byte("first")), keys.NewHasher([]byte("second"), method("first"))
	server := func(what string, h *keys.Hasher, adopted bool, wrong error) {
		t.Helper()
		_, state := standing(t, c, h)
		if state.Adopted != adopted || !errors.Is(state.Pepper, wrong) || state.Ready() != (wrong == nil) {
			t.Errorf("a server: %s: %+v", what, state)
		}
	}
	command := func(what string, h *keys.Hasher, wrong error) {
		t.Helper()
		if err := CheckPepper(ctx, c, h); !errors.Is(err, wrong) {
			t.Errorf("a command: %s: %v", what, err)
		}
	}
	command("on a store that no server has used", first, ErrUnclaimed)
	server("the first to ask", first, false, nil)
	server("the same", keys.NewHasher([]byte("first"), method("zero")), false, nil)
	server("another", keys.NewHasher([]byte("other")), false, ErrPepper)
	server("none", keys.NewHasher(nil), false, ErrPepper)
	server("without it, and SHA-256 before", keys.NewHasher([]byte("other"), keys.Method{Algorithm: keys.AlgorithmSHA256, Pepper: []byte("first")}), false, ErrPepper)
	command("another", keys.NewHasher([]byte("other")), ErrPepper)
	command("the next, by hand", second, nil)
	command("the first still", first, nil)
	server("the next", second, true, nil)
	server("the next again", second, false, nil)
	command("who has not heard of it", first, ErrPepper)
	command("the first rollout", keys.NewHasher([]byte("first"), method("zero"), method("second")), nil)

	value := c.Get(ctx, pepperKey).Val()
	if strings.Contains(value, "second") || len(value) != len("v1:")+32+1+8 {
		t.Errorf("the store holds %q", value)
	}
	c.Del(ctx, pepperKey)
	server("without a pepper", keys.NewHasher(nil), false, nil)
	server("with one that is new", keys.NewHasher([]byte("new"), keys.Method{}), true, nil)
	for _, text := range []string{"", "x", "v2" + value[2:], value[:len(value)-2], "v1:" + value[5:], strings.ToUpper(value), "v1:zz" + value[5:]} {
		c.Set(ctx, pepperKey, text, 0)
		notACheck(t, text, CheckPepper(ctx, c, second))
		_, state := standing(t, c, second)
		notACheck(t, text, state.Pepper)
	}
	c.Del(ctx, pepperKey)
	c.SAdd(ctx, pepperKey, "x")
	notACheck(t, "a set", CheckPepper(ctx, c, second))
}

func TestPepperOfAStoreThatIsAway(t *testing.T) {
	for what, h := range map[string]*keys.Hasher{"get": keys.NewHasher(nil), "set": keys.NewHasher([]byte("new"), keys.Method{})} {
		c := keystest.NewEmbedded(t)
		standing(t, c, keys.NewHasher(nil))
		c.AddHook(keystest.DieAlways(what))
		w := New(c, h, Options{})
		if state, err := w.Look(t.Context()); !errors.Is(err, keystest.ErrDied) || !errors.Is(state.Silent, keystest.ErrDied) || state.Adopted {
			t.Errorf("without %s: %+v", what, state)
		}
	}
	c := keystest.NewEmbedded(t)
	c.AddHook(keystest.DieAlways("get"))
	if err := CheckPepper(t.Context(), c, keys.NewHasher(nil)); !errors.Is(err, keystest.ErrDied) {
		t.Errorf("a command: %v", err)
	}
}

// Of two that ask at the same time, one says which pepper it is.
func TestPepperRace(t *testing.T) {
	c := keystest.NewEmbedded(t)
	other := &keystest.Overtake{Name: "set", N: 1}
	other.Do = func() { standing(t, c, keys.NewHasher([]byte("other"))) }
	c.AddHook(other)
	if _, state := standing(t, c, keys.NewHasher([]byte("mine"))); !errors.Is(state.Pepper, ErrPepper) || state.Ready() {
		t.Errorf("%+v", state)
	}
}

func BenchmarkPepperSum(b *testing.B) {
	h := keys.NewHasher([]byte("pepper"))
	for b.Loop() {
		h.PepperSum(keys.CurrentMethod, make([]byte, pepperSalt))
	}
}
