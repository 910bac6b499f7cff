package keys

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"tollgate/policy/keys/keystest"
)

func TestCheckSize(t *testing.T) {
	k := Sample(func(k *Key) { k.IPs, k.API = keystest.Addresses(2000), "wide" })
	if err := CheckSize(k, plainRules{}); err != nil {
		t.Errorf("the policy says more: %v", err)
	}
	for i := range 1000 {
		k.Scopes = append(k.Scopes, fmt.Sprintf("%0100d", i))
	}
	k.IPs, k.API = nil, "pictify"
	if err := CheckSize(k, plainRules{}); err == nil || !strings.HasPrefix(err.Error(), "scopes: the record would have 10") {
		t.Error(err)
	}
}

// Time and memory grow with a file, whatever it holds.
func TestFilesOfBracketsAndLongLists(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, deep := range []string{"[", "- ", "? ", "&a ", "!a ", "[{a: "} {
		text := "keys:\n- id: " + strings.Repeat(deep, 64_000)
		if _, err := ParseFile("k", []byte(text)); err == nil || !strings.Contains(err.Error(), "nested too deep") {
			t.Errorf("%s: %.200v", deep, err)
		}
		ParseItem(text, 1, func(_ int, _ Entry, err error) bool {
			if err == nil || !strings.Contains(err.Error(), "nested too deep") {
				t.Errorf("%s: %.200v", deep, err)
			}
			return true
		})
	}
	runtime.ReadMemStats(&after)
	if spent := after.TotalAlloc - before.TotalAlloc; spent > 12*64<<20 {
		t.Errorf("%d MiB for 12 files of brackets", spent>>20)
	}
	if _, err := ParseFile("k", []byte("keys: ["+strings.Repeat("a,", 600_000)+"]")); err == nil || !strings.Contains(err.Error(), "words and signs that are read") {
		t.Errorf("%.200v", err)
	}
	var scopes []string
	for i := range 100_000 {
		scopes = append(scopes, fmt.Sprintf("s%d", i))
	}
	began := time.Now()
	k := Sample(func(k *Key) { k.Scopes = append(scopes, "s5") })
	if err := k.Validate(); err == nil || err.Error() != `scopes[100000]: "s5" is named twice` {
		t.Error(err)
	}
	if spent := time.Since(began); spent > 5*time.Second {
		t.Errorf("100,000 scopes took %v", spent)
	}
}
