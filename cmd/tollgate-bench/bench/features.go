package bench

import "context"

// plain is a server that counts no usage and keeps no error log.
const plain = "plain"

// Feature is what a check costs with a part of the server, beside one without it.
type Feature struct {
	What    string `json:"what"`
	With    Stat   `json:"with_us"` // server CPU per check
	Without Stat   `json:"without_us"`
	Ratio   Stat   `json:"ratio"` // of neighbouring measurements
}

// feature is what is measured. limit is what the ratio should stay below, 0 for none.
type feature struct {
	what          string
	with, without testCase
	limit         float64
}

// features are what can be switched off and is on.
func features() []feature {
	const allowed = "allowed"
	leasedPlain := testCase{id: "features", server: plain, keys: known, reason: allowed}
	denied := testCase{id: "features", server: leased, keys: spent, reason: "rate_limited"}
	deniedPlain := denied
	deniedPlain.server = plain
	return []feature{
		{what: "leased, usage counted", limit: 1.03, without: leasedPlain,
			with: testCase{id: "features", server: leased, keys: known, reason: allowed}},
		{what: "leased, usage counted, an access log entry for each", without: leasedPlain,
			with: testCase{id: "features", server: leased, keys: known, reason: allowed, logged: true}},
		{what: "denied, usage and errors counted", limit: 1.03, with: denied, without: deniedPlain},
	}
}

// features measures each of them beside a server without it.
func (b *bench) features(ctx context.Context) (list []Feature, err error) {
	b.say("%d keys for %s", b.Keys, plain)
	if err := b.startOurs(ctx, plain, b.sets[known], b.sets[spent]); err != nil {
		return nil, err
	}
	for _, f := range features() {
		without := b.turn(f.without)
		first := without.job
		first.Once = true
		if _, err := b.do(ctx, first); err != nil {
			return nil, err
		}
		b.say("%s", f.what)
		with, base, err := b.pair(ctx, b.turn(f.with), without, b.Rounds)
		if err != nil {
			return nil, err
		}
		list = append(list, newFeature(f.what, with, base))
	}
	return list, nil
}

func newFeature(what string, with, without []sample) Feature {
	w, wo := pick(with, cpuOf), pick(without, cpuOf)
	return Feature{What: what, With: newStat(w), Without: newStat(wo), Ratio: newStat(ratios(w, wo))}
}

// featureLines judges what features cost. With judge, they guard.
func featureLines(list []Feature, judge bool) (lines []Line) {
	for i, f := range features() {
		if i < len(list) && f.limit > 0 {
			lines = append(lines, Line{What: f.what + ", server CPU, ratio to without", Limit: f.limit, Got: list[i].Ratio.Median, Guards: judge})
		}
	}
	return lines
}
