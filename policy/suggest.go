package policy

import (
	"fmt"
	"slices"
	"strings"
)

// maxSuggested bounds the names that are listed where none is near.
const maxSuggested = 8

// Suggest ends an error about an unknown name: with the known name that was probably meant, else
// with all of them, if they are few.
func Suggest(name string, known []string) string {
	slices.Sort(known)
	best, distance := "", min(len(name)/3+1, 3)
	for _, candidate := range known {
		if d := edits(strings.ToLower(name), strings.ToLower(candidate)); d < distance || d == distance && best == "" {
			best, distance = candidate, d
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf("; did you mean %q?", best)
	case len(known) == 0:
		return "; there is none"
	case len(known) <= maxSuggested:
		return fmt.Sprintf("; there is %q", known)
	}
	return ""
}

// edits returns how many bytes have to be added, removed or replaced to make b of a (Levenshtein).
// Names are short; a key's may not be, so a is cut.
func edits(a, b string) int {
	a = a[:min(len(a), 128)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
