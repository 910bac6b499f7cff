package chart_test

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"tollgate/cmd/tollgate/chart"
)

// elements reads the picture as any program would, and returns its texts and the widths of its
// bars.
func elements(t *testing.T, c *chart.Bars) (texts, widths []string) {
	t.Helper()
	var b strings.Builder
	if err := c.Write(&b); err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(strings.NewReader(b.String())); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return texts, widths
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, b.String())
		}
		switch e := token.(type) {
		case xml.CharData:
			if text := strings.TrimSpace(string(e)); text != "" {
				texts = append(texts, text)
			}
		case xml.StartElement:
			for _, a := range e.Attr {
				if e.Name.Local == "rect" && a.Name.Local == "width" || e.Name.Local == "line" && a.Name.Local == "x2" {
					widths = append(widths, a.Value)
				}
			}
		}
	}
}

// Parts stand one after the other, and the longest line fits: 860 less 330 for labels and 130 for
// values are 400.
func TestBars(t *testing.T) {
	texts, widths := elements(t, &chart.Bars{Title: "What <happened>", Note: "a & b", Legend: "blue", Bars: []chart.Bar{
		{Label: "one", Parts: []chart.Part{{50, chart.Emphasis}, {25, chart.Warning}}, Text: "75"},
		{Label: "two", Parts: []chart.Part{{10, chart.Plain}}, Range: [2]float64{5, 20}, Line: 100, Text: "10 µs"},
		{Label: "less than nothing", Parts: []chart.Part{{-10, chart.Plain}}},
	}})
	if got, want := strings.Join(texts, "|"), "What <happened>|a & b|one|75|two|10 µs|less than nothing|blue"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := strings.Join(widths, " "), "100% 200.0 100.0 40.0 410.0 730.0 0.0"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if texts, _ := elements(t, &chart.Bars{}); len(texts) > 0 {
		t.Errorf("%q", texts)
	}
	if _, widths := elements(t, &chart.Bars{LabelWidth: 130, ValueWidth: 230, Bars: []chart.Bar{{Parts: []chart.Part{{1, chart.Plain}}}}}); widths[1] != "500.0" {
		t.Errorf("%q", widths)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no room") }

func TestDrawingThatCannotBeWritten(t *testing.T) {
	if err := (&chart.Bars{}).Write(full{}); err == nil {
		t.Error("nobody is told")
	}
}
