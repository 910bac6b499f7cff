package extauthz

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"tollgate/policy"
)

// Decisions says which decisions are logged, a line each: terms joined with commas, of which none
// stands alone. all is every decision, denied every one that refuses, and the name of a reason
// those with that reason; =SHARE after a term, as 0.01 or 1%, has that part of them logged, drawn
// by chance. A reason counts before denied, and denied before all.
type Decisions string

// Values of Decisions. Store trouble is logged under each of them.
const (
	LogNone   Decisions = "none"
	LogDenied Decisions = "denied"
	LogAll    Decisions = "all"
)

// ParseDecisions reads what is logged, such as denied,allowed=1%.
func ParseDecisions(s string) (Decisions, error) {
	if Decisions(s) == LogNone {
		return LogNone, nil
	}
	seen := map[string]bool{}
	for term := range strings.SplitSeq(s, ",") {
		name, share, sampled := strings.Cut(term, "=")
		if _, ok := policy.ParseReason(name); !ok && name != string(LogDenied) && name != string(LogAll) {
			return "", fmt.Errorf("unknown value %q, want none, denied, all, or reasons such as allowed=1%%", name)
		}
		if seen[name] {
			return "", fmt.Errorf("%s is said twice", name)
		}
		seen[name] = true
		if _, err := parseShare(share); sampled && err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
	}
	return Decisions(s), nil
}

func parseShare(s string) (float64, error) {
	number, percent := strings.CutSuffix(s, "%")
	share, err := strconv.ParseFloat(number, 64)
	if percent {
		share /= 100
	}
	if err != nil || !(share >= 0 && share <= 1) {
		return 0, fmt.Errorf("share %q: want 0 to 1, or 0%% to 100%%", s)
	}
	return share, nil
}

// sample is Decisions, ready to be asked.
type sample struct {
	all    bool      // the log is not bounded
	shares []float64 // by reason
}

// sample takes what ParseDecisions has accepted.
func (d Decisions) sample() *sample {
	reasons := policy.Reasons()
	s := &sample{shares: make([]float64, len(reasons))}
	terms := map[string]float64{}
	for term := range strings.SplitSeq(string(d), ",") {
		name, text, sampled := strings.Cut(term, "=")
		terms[name] = 1
		if sampled {
			terms[name], _ = parseShare(text)
		}
	}
	all, isAll := terms[string(LogAll)]
	s.all = isAll && all == 1
	denied, isDenied := terms[string(LogDenied)]
	for _, r := range reasons {
		s.shares[r] = all
		if isDenied && r != policy.Allowed {
			s.shares[r] = denied
		}
		if own, ok := terms[r.String()]; ok {
			s.shares[r] = own
		}
	}
	return s
}

// take reports whether a decision is logged, and which share of those with its reason is.
func (s *sample) take(r policy.Reason) (share float64, ok bool) {
	share = s.shares[r]
	return share, share == 1 || share > 0 && rand.Float64() < share
}
