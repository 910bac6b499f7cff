package introspection

import (
	"fmt"
	"strings"
	"testing"

	"tollgate/policy/oauth"
)

func TestAnswersAreBounded(t *testing.T) {
	i := &oauth.Issuer{API: "pixelmagic", URL: "https://as.example.com"}
	keep := func(s *answers, text string) {
		s.keep(&answer{issuer: i, text: text, token: &oauth.Token{Client: "web", Scopes: []string{"text"}}})
	}
	few := newAnswers(Room{Answers: 3, Bytes: 1 << 20})
	for n := range 5 {
		keep(few, fmt.Sprint(n))
		few.find(i, "0") // what is used stays
	}
	for n, want := range []bool{true, false, false, true, true} {
		if got := few.find(i, fmt.Sprint(n)); (got != nil) != want || want && got.text != fmt.Sprint(n) {
			t.Errorf("%d: %v", n, got)
		}
	}
	long := strings.Repeat("x", oauth.MaxToken)
	small := newAnswers(Room{Answers: 1000, Bytes: 10 * (oauth.MaxToken + 1000)})
	for n := range 100 {
		keep(small, fmt.Sprint(n, long))
		keep(small, fmt.Sprint(n, long)) // the same again takes no more
		if small.bytes > small.room.Bytes || len(small.all) != small.order.Len() {
			t.Fatalf("%d bytes in %d of %d", small.bytes, len(small.all), small.order.Len())
		}
	}
	if n := small.len(); n < 9 || n > 11 {
		t.Errorf("%d are kept", n)
	}
	keep(small, strings.Repeat("x", small.room.Bytes)) // one that is larger than all
	if n := small.len(); n < 9 {
		t.Errorf("%d are kept", n)
	}
	for n := range 100 {
		small.forget(i, fmt.Sprint(n, long))
	}
	if small.len() != 0 || small.bytes != 0 || small.order.Len() != 0 {
		t.Errorf("%d bytes in %d", small.bytes, small.len())
	}
}

// Two texts with one hash are two: the later is kept, and neither is taken for the other.
func TestAnswersAreComparedAsAWhole(t *testing.T) {
	i := &oauth.Issuer{API: "pixelmagic", URL: "https://as.example.com"}
	s := newAnswers(Room{Answers: 3, Bytes: 1 << 20})
	s.keep(&answer{issuer: i, text: "one"})
	s.all[s.hash(i, "two")] = s.all[s.hash(i, "one")]
	if s.find(i, "two") != nil {
		t.Error("an answer about another token counts")
	}
}
