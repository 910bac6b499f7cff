package keys

import (
	"errors"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

func testPepper(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), NewStore(c)
	method := func(pepper string) Method { return Method{Pepper: []byte(pepper)} }
	first, second := NewHasher([]byte("first")), NewHasher([]byte("second"), method("first"))
	expect := func(what string, h *Hasher, adopt, want bool, wrong error) {
		t.Helper()
		if changed, err := s.CheckPepper(ctx, h, adopt); changed != want || !errors.Is(err, wrong) {
			t.Errorf("%s: %t, %v", what, changed, err)
		}
	}
	expect("the first to ask", first, false, false, nil)
	expect("the same", NewHasher([]byte("first"), method("zero")), true, false, nil)
	expect("another", NewHasher([]byte("other")), true, false, ErrPepper)
	expect("none", NewHasher(nil), true, false, ErrPepper)
	expect("without it, and SHA-256 before", NewHasher([]byte("other"), Method{Algorithm: AlgorithmSHA256, Pepper: []byte("first")}), true, false, ErrPepper)
	expect("the next, by hand", second, false, false, nil)
	expect("the first still", first, false, false, nil)
	expect("the next, by a server", second, true, true, nil)
	expect("the next again", second, true, false, nil)
	expect("who has not heard of it", first, true, false, ErrPepper)
	expect("the first rollout", NewHasher([]byte("first"), method("zero"), method("second")), false, false, nil)

	value := c.Get(ctx, pepperKey).Val()
	if strings.Contains(value, "second") || len(value) != len("v1:")+32+1+8 {
		t.Errorf("the store holds %q", value)
	}
	c.Del(ctx, pepperKey)
	expect("without a pepper", NewHasher(nil), true, false, nil)
	expect("with one that is new", NewHasher([]byte("new"), Method{}), true, true, nil)
	for _, text := range []string{"", "x", "v2" + value[2:], value[:len(value)-2], "v1:" + value[5:], strings.ToUpper(value), "v1:zz" + value[5:]} {
		c.Set(ctx, pepperKey, text, 0)
		_, err := s.CheckPepper(ctx, second, true)
		expectCorrupt(t, text, err, pepperKey, "not a check of a pepper")
	}
	c.Del(ctx, pepperKey)
	c.SAdd(ctx, pepperKey, "x")
	_, err := s.CheckPepper(ctx, second, true)
	expectCorrupt(t, "a set", err, pepperKey, "not a check of a pepper")
}

func TestPepperOfAStoreThatIsAway(t *testing.T) {
	for what, h := range map[string]*Hasher{"get": NewHasher(nil), "set": NewHasher([]byte("new"), Method{})} {
		c := newEmbedded(t)
		s := NewStore(c)
		if _, err := s.CheckPepper(t.Context(), NewHasher(nil), true); err != nil {
			t.Fatal(err)
		}
		c.AddHook(dieAlways(what))
		if _, err := s.CheckPepper(t.Context(), h, true); !errors.Is(err, errDied) {
			t.Errorf("without %s: %v", what, err)
		}
	}
}

// Of two that ask at the same time, one says which pepper it is.
func TestPepperRace(t *testing.T) {
	c := newEmbedded(t)
	s := NewStore(c)
	other := &beforeCommand{name: "set", n: 1}
	other.do = func() {
		if _, err := NewStore(c).CheckPepper(t.Context(), NewHasher([]byte("other")), false); err != nil {
			t.Error(err)
		}
	}
	c.AddHook(other)
	if _, err := s.CheckPepper(t.Context(), NewHasher([]byte("mine")), false); !errors.Is(err, ErrPepper) {
		t.Errorf("%v", err)
	}
}

func BenchmarkPepperSum(b *testing.B) {
	h := NewHasher([]byte("pepper"))
	for b.Loop() {
		h.pepperSum(current, make([]byte, pepperSalt))
	}
}
