package keys

import (
	"errors"
	"strings"
	"testing"
	"time"

	"tollgate/policy/keys/keystest"

	"github.com/redis/go-redis/v9"
)

// standing returns how a server with this Hasher, which just started, stands to its store.
func standing(t *testing.T, c redis.UniversalClient, h *Hasher) (*Standing, StandingState) {
	t.Helper()
	w := NewStanding(c, h, StandingOptions{Timeout: 10 * time.Second})
	state, err := w.Look(t.Context())
	if err != nil {
		t.Error(err)
	}
	return w, state
}

// notACheck expects an error that says so of what is at the place of the check.
func notACheck(t *testing.T, what string, err error) {
	t.Helper()
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) || corrupt.ID != pepperKey || !strings.Contains(err.Error(), "not a check of a pepper") {
		t.Errorf("%s: %v", what, err)
	}
}

func testPepper(t *testing.T, c redis.UniversalClient) {
	ctx := t.Context()
	method := func(pepper string) Method { return Method{Pepper: []byte(pepper)} }
	first, second := NewHasher([]byte("first")), NewHasher([]byte("second"), method("first"))
	server := func(what string, h *Hasher, adopted bool, wrong error) {
		t.Helper()
		_, state := standing(t, c, h)
		if state.Adopted != adopted || !errors.Is(state.Pepper, wrong) || state.Ready() != (wrong == nil) {
			t.Errorf("a server: %s: %+v", what, state)
		}
	}
	command := func(what string, h *Hasher, wrong error) {
		t.Helper()
		if err := CheckPepper(ctx, c, h); !errors.Is(err, wrong) {
			t.Errorf("a command: %s: %v", what, err)
		}
	}
	command("on a store that no server has used", first, ErrUnclaimed)
	server("the first to ask", first, false, nil)
	server("the same", NewHasher([]byte("first"), method("zero")), false, nil)
	server("another", NewHasher([]byte("other")), false, ErrPepper)
	server("none", NewHasher(nil), false, ErrPepper)
	server("without it, and SHA-256 before", NewHasher([]byte("other"), Method{Algorithm: AlgorithmSHA256, Pepper: []byte("first")}), false, ErrPepper)
	command("another", NewHasher([]byte("other")), ErrPepper)
	command("the next, by hand", second, nil)
	command("the first still", first, nil)
	server("the next", second, true, nil)
	server("the next again", second, false, nil)
	command("who has not heard of it", first, ErrPepper)
	command("the first rollout", NewHasher([]byte("first"), method("zero"), method("second")), nil)

	value := c.Get(ctx, pepperKey).Val()
	if strings.Contains(value, "second") || len(value) != len("v1:")+32+1+8 {
		t.Errorf("the store holds %q", value)
	}
	c.Del(ctx, pepperKey)
	server("without a pepper", NewHasher(nil), false, nil)
	server("with one that is new", NewHasher([]byte("new"), Method{}), true, nil)
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
	for what, h := range map[string]*Hasher{"get": NewHasher(nil), "set": NewHasher([]byte("new"), Method{})} {
		c := keystest.NewEmbedded(t)
		standing(t, c, NewHasher(nil))
		c.AddHook(keystest.DieAlways(what))
		w := NewStanding(c, h, StandingOptions{})
		if state, err := w.Look(t.Context()); !errors.Is(err, keystest.ErrDied) || !errors.Is(state.Silent, keystest.ErrDied) || state.Adopted {
			t.Errorf("without %s: %+v", what, state)
		}
	}
	c := keystest.NewEmbedded(t)
	c.AddHook(keystest.DieAlways("get"))
	if err := CheckPepper(t.Context(), c, NewHasher(nil)); !errors.Is(err, keystest.ErrDied) {
		t.Errorf("a command: %v", err)
	}
}

// Of two that ask at the same time, one says which pepper it is.
func TestPepperRace(t *testing.T) {
	c := keystest.NewEmbedded(t)
	other := &keystest.Overtake{Name: "set", N: 1}
	other.Do = func() { standing(t, c, NewHasher([]byte("other"))) }
	c.AddHook(other)
	if _, state := standing(t, c, NewHasher([]byte("mine"))); !errors.Is(state.Pepper, ErrPepper) || state.Ready() {
		t.Errorf("%+v", state)
	}
}

func BenchmarkPepperSum(b *testing.B) {
	h := NewHasher([]byte("pepper"))
	for b.Loop() {
		h.PepperSum(CurrentMethod, make([]byte, pepperSalt))
	}
}
