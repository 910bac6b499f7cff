package keys

import (
	"fmt"
	"hash/crc32"
	"math/big"
	"strings"
	"testing"
)

func TestNewSecret(t *testing.T) {
	seen := map[string]bool{}
	used := map[rune]int{}
	for range 2000 {
		s := NewSecret("pk_live_")
		if len(s) != len("pk_live_")+27+6 || !HasChecksum(s, "pk_live_") || SecretProblem(s) != "" {
			t.Fatalf("%q is not a secret", s)
		}
		if seen[s] {
			t.Fatalf("%q came twice", s)
		}
		seen[s] = true
		for _, c := range s[8:35] {
			used[c]++
		}
	}
	if len(used) != 62 {
		t.Errorf("%d of 62 characters used", len(used))
	}
	// A plain b%62 would give the first eight characters a quarter more: 8,437 here, where 6,968 ±
	// 78 is fair.
	first := 0
	for _, c := range Base62[:8] {
		first += used[c]
	}
	if first > 7500 || first < 6400 {
		t.Errorf("the first eight characters came %d times in 54,000", first)
	}
}

func TestChecksumIsCRC32(t *testing.T) {
	for _, body := range []string{"", "123456789", "pb_" + strings.Repeat("Zz0", 9), NewSecret("é")} {
		want := new(big.Int).SetUint64(uint64(crc32.ChecksumIEEE([]byte(body)))).Text(62)
		// math/big orders base62 as 0-9 a-z A-Z, we as 0-9 A-Z a-z.
		want = strings.Map(func(r rune) rune {
			switch {
			case r >= 'a' && r <= 'z':
				return r - 'a' + 'A'
			case r >= 'A' && r <= 'Z':
				return r - 'A' + 'a'
			}
			return r
		}, want)
		want = strings.Repeat("0", 6-len(want)) + want
		if got := checksum(body); string(got[:]) != want {
			t.Errorf("checksum(%q) = %s, want %s", body, got, want)
		}
	}
}

func TestHasChecksum(t *testing.T) {
	random := "0123456789ABCDEFGHIJabcdefg"
	good := Seal("pb_", random)
	swapped := strings.Replace(good, "AB", "BA", 1)
	for _, test := range []struct {
		name, secret, prefix string
		want                 bool
	}{
		{"sealed", good, "pb_", true},
		{"longer random", Seal("pb_", random+"xyz"), "pb_", true},
		{"no prefix", Seal("", random), "", true},
		{"as long as can be", Seal("", strings.Repeat("a", 506)), "", true},
		{"one byte longer", Seal("", strings.Repeat("a", 507)), "", false},
		{"random too short", Seal("pb_", random[1:]), "pb_", false},
		{"another prefix", good, "pk_", false},
		{"another prefix, of letters", Seal("pb", random), "pk", false},
		{"prefix in other letters", "PB_" + good[3:], "PB_", false},
		{"shorter prefix", good, "pb", false}, // the rest would start with _
		{"swapped letters", swapped, "pb_", false},
		{"last byte", good[:len(good)-1] + "!", "pb_", false},
		{"a byte more", good + "0", "pb_", false},
		{"a byte less", good[:len(good)-1], "pb_", false},
		{"not base62", Seal("pb_", "0123456789ABCDEFGHIJabcde_-"), "pb_", false},
		{"not ASCII", Seal("pb_", random+"é"), "pb_", false},
		{"empty", "", "", false},
		{"only the prefix", "pb_", "pb_", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := HasChecksum(test.secret, test.prefix); got != test.want {
				t.Errorf("HasChecksum(%q, %q) = %v", test.secret, test.prefix, got)
			}
		})
	}
	if n := testing.AllocsPerRun(100, func() { HasChecksum(good, "pb_") }); n != 0 {
		t.Errorf("HasChecksum allocates %v times", n)
	}
}

// Every single wrong character is found.
func TestHasChecksumFindsTypos(t *testing.T) {
	good := Seal("pb_", "0123456789ABCDEFGHIJabcdefg")
	for i := 3; i < len(good); i++ {
		for _, c := range Base62 {
			typo := good[:i] + string(c) + good[i+1:]
			if typo != good && HasChecksum(typo, "pb_") {
				t.Fatalf("%q passes for %q", typo, good)
			}
		}
	}
}

func FuzzHasChecksum(f *testing.F) {
	good := Seal("pb_", "0123456789ABCDEFGHIJabcdefg")
	f.Add(good, "pb_")
	f.Add(good, "")
	f.Add("", "")
	f.Add("pb_"+strings.Repeat("0", 33), "pb_")
	f.Add("\xff\x00", "\xff")
	f.Fuzz(func(t *testing.T, secret, prefix string) {
		if HasChecksum(secret, prefix) {
			if secret != Seal("", secret[:len(secret)-6]) || !strings.HasPrefix(secret, prefix) || len(secret) > 512 {
				t.Fatalf("%q passes with prefix %q", secret, prefix)
			}
			flipped := secret[:len(secret)-1] + string(Base62[(strings.IndexByte(Base62, secret[len(secret)-1])+1)%62])
			if HasChecksum(flipped, prefix) {
				t.Fatalf("%q passes too", flipped)
			}
		}
		sealed := Seal(prefix, fmt.Sprintf("%027x", len(secret)))
		if len(sealed) <= 512 && !HasChecksum(sealed, prefix) {
			t.Fatalf("%q does not pass", sealed)
		}
	})
}

func TestShow(t *testing.T) {
	for in, want := range map[string]string{
		"read":                           `"read"`,
		"key_0123456789abcdef":           `"key_0123456789abcdef"`,
		"192.168.100.100/33":             `"192.168.100.100/33"`,
		"pb_0123456789abcdef":            "a value (not shown: it could be a secret)",
		"say: pb_0123456789abcdef":       "a value (not shown: it could be a secret)",
		"key_" + strings.Repeat("a", 61): "a value (not shown: it could be a secret)",
		strings.Repeat("a b", 40):        `"` + strings.Repeat("a b", 40)[:80] + `"…`,
	} {
		if got := Quote(in); got != want {
			t.Errorf("show(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestHoldsSecret(t *testing.T) {
	with, without := NewSecret("pk_live_"), NewSecret("")
	for _, test := range []struct {
		text, prefix string
		want         bool
	}{
		{with, "pk_live_", true}, {"a" + with + "b", "pk_live_", true}, {"pk_live_ " + with, "pk_live_", true}, {"pk_live_" + with, "pk_live_", true},
		{with[:len(with)-1], "pk_live_", false}, {with, "pk_test_", false}, {"", "pk_live_", false}, {strings.Repeat("pk_live_", 128), "pk_live_", false},
		{Seal("pk_live_", strings.Repeat("a", 40)), "pk_live_", true},
		{without, "", true}, {"(" + without + ")", "", true}, {"x" + without, "", false}, {strings.Repeat("a", 1024), "", false},
	} {
		if got := HoldsSecret(test.text, test.prefix); got != test.want {
			t.Errorf("HoldsSecret(%q, %q) = %t", test.text, test.prefix, got)
		}
	}
}

// Of the name of a team or member nobody knows which API's keys it could hold, and members' tokens
// are secrets, too.
func TestNameSecret(t *testing.T) {
	random := NewSecret("")[:randomBytes]
	for name, want := range map[string]bool{
		Seal("pk_live_", random):                           true,
		Seal("", random):                                   true,
		Seal("a.b~c+d/e=f-", random+"longer"):              true,
		"Ann <" + Seal("tgm_", random) + "> of é":          true,
		"key:" + Seal("pk_test_", random) + "and more":     true,
		"pk_live_" + Seal("pk_test_", random):              true,
		Seal("pk_live_", random[1:]):                       false,
		Seal("pk_live_", random[:9]+"_"+random[10:]):       false,
		Seal("pk_live_", random)[:len("pk_live_")+32]:      false,
		strings.Replace(Seal("pk ", random), "pk ", "", 1): false,
		"Ann": false, "": false, "orbit's team of 27 people and more of them": false,
	} {
		if HoldsNewSecret(name) != want {
			t.Errorf("%q: want %t", name, want)
		}
	}
}

func TestSecretProblem(t *testing.T) {
	for secret, want := range map[string]string{
		NewSecret("pk_"): "", strings.Repeat("a", 16): "", strings.Repeat("a", 512): "", "~another-secret+/=.": "",
		strings.Repeat("a", 15): "is shorter than 16 bytes", strings.Repeat("a", 513): "is longer than 512 bytes",
		"pb_01234 56789ABCDEFG": "has a byte outside A-Z a-z 0-9 . _ ~ + / = -",
	} {
		if got := SecretProblem(secret); got != want {
			t.Errorf("%q: %q, want %q", secret, got, want)
		}
	}
}
