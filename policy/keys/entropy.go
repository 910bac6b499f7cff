package keys

import (
	"crypto/hmac"
	"crypto/sha256"
	"math"
	"strings"
)

// StrongBits is the entropy from which a secret cannot be guessed back from a hash without a pepper.
const StrongBits = 128

// Bits of entropy that a character adds when it follows from the ones before, or stands in a word.
const (
	bitsFollowing = 1
	bitsInWord    = 2
	shortestRun   = 4
)

// EntropyBits estimates how many random bits a secret of another system holds, rather too low than too high, except for words
// in look-alike spelling ("S3cr3t"), which it takes for random characters. Nobody can know: the estimate looks only at the
// one text.
//
//   - A name in front ("sk_live_") counts nothing.
//   - Each character counts log2 of the size of the smallest usual alphabet that holds them all: digits (10), hex (16),
//     one case of letters (26), with digits (36), both cases (52), with digits (62), with - _ or + / (64), all that
//     a key may have (69). Dividers and padding count nothing, nor what is fixed in a UUID.
//   - A character that repeats 4 or more earlier ones, or continues a run like 1234, aaaa or qwer, counts 1 bit, if that
//     concerns a quarter of the secret; less is chance.
//   - Letters that read like words count 2 bits, if that concerns two thirds of the secret.
//   - All is scaled down if the Shannon entropy of the characters is below 85 % of what random ones would show.
func EntropyBits(secret string) float64 {
	text := strings.TrimRight(withoutName(secret), "=")
	s, a := alphabet(text)
	if s == "" {
		return 0
	}
	per := math.Log2(float64(a))
	bits := per * float64(len(s))
	if uuid(text) {
		bits -= 6
	}
	following, words := predictable(text)
	if 4*following >= len(s) {
		bits -= (per - bitsFollowing) * float64(following)
	}
	if 3*words >= 2*len(s) && a > 16 {
		bits = min(bits, per*float64(len(s)-words)+bitsInWord*float64(words))
	}
	if ratio := shannon(s) / shannonOfRandom(len(s), a); ratio < 0.85 {
		bits *= ratio
	}
	return max(bits, 0)
}

// Peppered reports whether the digests need a pepper: without one everybody can compute them.
func (h *Hasher) Peppered() bool {
	bare := hmac.New(sha256.New, nil)
	d := h.Digest("")
	return !hmac.Equal(d[:], bare.Sum(nil))
}

// withoutName cuts what providers put in front of the random part: lower-case words that end in _ or -.
func withoutName(s string) string {
	for range 3 {
		n := 0
		for n < len(s) && (isLower(s[n]) || n > 0 && isDigit(s[n])) {
			n++
		}
		if n < 2 || n > 12 || n == len(s) || s[n] != '_' && s[n] != '-' {
			break
		}
		s = s[n+1:]
	}
	return s
}

// alphabet returns the characters of s that count, and the size of the smallest usual alphabet that has them all.
func alphabet(s string) (counting string, size int) {
	digits, upper, lower := base62[:10], base62[10:36], base62[36:]
	// A - or _ is a divider, as in a UUID, unless the text has everything else of base64 too.
	plain := strings.ReplaceAll(strings.ReplaceAll(s, "-", ""), "_", "")
	for _, a := range []struct {
		text, has string
		size      int
	}{
		{plain, digits, 10}, {plain, digits + lower[:6], 16}, {plain, digits + upper[:6], 16},
		{plain, lower, 26}, {plain, upper, 26}, {plain, digits + lower, 36}, {plain, digits + upper, 36},
		{plain, lower + upper, 52}, {s, base62, 62}, {s, base62 + "-_", 64}, {s, base62 + "+/", 64},
	} {
		if only(a.text, func(c byte) bool { return strings.IndexByte(a.has, c) >= 0 }) {
			return a.text, a.size
		}
	}
	return s, 69
}

// uuid reports whether s is a UUID in its usual form, of which 6 bits say only what kind it is.
func uuid(s string) bool {
	return len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-'
}

// predictable counts the characters that follow from earlier ones, and those of words.
func predictable(s string) (following, words int) {
	for i := 0; i < len(s); {
		n := max(repeated(s, i), steps(s, i), neighbours(s, i))
		if n < shortestRun {
			i++
			continue
		}
		following += n
		i += n
	}
	for i := 0; i < len(s); {
		n := word(s[i:])
		if n >= shortestRun {
			words += n
		}
		i += max(n, 1)
	}
	return following, words
}

// repeated is the length of the longest text at i that s also has before i.
func repeated(s string, i int) int {
	n := shortestRun - 1
	for i+n < len(s) && strings.Contains(s[:i], s[i:i+n+1]) {
		n++
	}
	if n < shortestRun {
		return 0
	}
	return n
}

// steps is the length of the run from i in which each character is the last one's neighbour in the same direction,
// or the same.
func steps(s string, i int) int {
	if i+1 >= len(s) {
		return 0
	}
	step := int(s[i+1]) - int(s[i])
	if step < -1 || step > 1 {
		return 0
	}
	n := 2
	for i+n < len(s) && int(s[i+n])-int(s[i+n-1]) == step {
		n++
	}
	return n
}

// neighbours is the length of the run from i that goes along a row of letters of a keyboard.
func neighbours(s string, i int) int {
	n := 0
	for _, row := range [...]string{"qwertyuiop", "asdfghjkl", "zxcvbnm"} {
		for _, row := range [...]string{row, strings.ToUpper(row)} {
			m := 0
			for i+m < len(s) && strings.Contains(row, s[i:i+m+1]) {
				m++
			}
			n = max(n, m)
		}
	}
	return n
}

// word is the length of the letters at the start of s, which may begin with a capital, if they have vowels like
// a word; else 0.
func word(s string) int {
	n, vowels := 0, 0
	for n < len(s) && isLetter(s[n]) && (n < 2 || isUpper(s[n]) == isUpper(s[1])) {
		if n == 1 && isUpper(s[1]) && isLower(s[0]) {
			break
		}
		if strings.IndexByte("aeiouAEIOU", s[n]) >= 0 {
			vowels++
		}
		n++
	}
	if 4*vowels < n || 5*vowels > 3*n {
		return 0
	}
	return n
}

// shannon is the entropy of the frequencies of s's own characters, in bits a character.
func shannon(s string) float64 {
	var counts [256]int
	for i := range len(s) {
		counts[s[i]]++
	}
	h := 0.0
	for _, c := range counts {
		if c > 0 {
			p := float64(c) / float64(len(s))
			h -= p * math.Log2(p)
		}
	}
	return h
}

// shannonOfRandom is what shannon would give on average for n characters drawn from an alphabet of a: less than
// log2(a), because a short text cannot show all of them.
func shannonOfRandom(n, a int) float64 {
	if n < 2 {
		return 1
	}
	p := 1 / float64(a)
	chance := math.Pow(1-p, float64(n)) // that one character of the alphabet occurs c times
	sum := 0.0
	for c := range n {
		chance *= float64(n-c) / float64(c+1) * p / (1 - p)
		sum += chance * float64(c+1) * math.Log2(float64(c+1))
	}
	return math.Log2(float64(n)) - float64(a)*sum/float64(n)
}
