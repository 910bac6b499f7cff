package bench

import "testing"

// What is on by default may cost 3 %; that many entries of an access log cost more is shown.
func TestFeatureLines(t *testing.T) {
	var list []Feature
	for _, f := range features() {
		list = append(list, newFeature(f.what, []sample{{cpu: 11}, {cpu: 22}}, []sample{{cpu: 10}, {cpu: 20}}))
	}
	lines := featureLines(list, true)
	if len(lines) != 2 || len(featureLines(nil, true)) != 0 {
		t.Fatalf("%+v", lines)
	}
	for _, l := range lines {
		if l.Met() || l.Limit != 1.03 || !l.Guards || l.Got != 1.1 {
			t.Errorf("%+v", l)
		}
	}
	if featureLines(list, false)[0].Guards {
		t.Error("judged where no time is")
	}
}
