// Package chart draws bars as SVG, without a library: for what the bench measures, and for usage.
package chart

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"strings"
)

// Bars is a picture of bars, each from 0 and on a line of its own.
type Bars struct {
	Title, Note string
	// Legend stands below the bars.
	Legend string
	// LabelWidth and ValueWidth are the room for labels and texts in pixels; 0 is 330 and 130.
	LabelWidth, ValueWidth int
	Bars                   []Bar
}

// Bar is one bar.
type Bar struct {
	Label string
	Parts []Part // one after the other
	// Range is drawn as a thin line from the first to the second value; none where both are 0.
	Range [2]float64
	// Line is a value to stay below, 0 for none.
	Line float64
	// Text stands at the end of the bar.
	Text string
}

// Part is a part of a bar in one colour.
type Part struct {
	Value float64
	Fill  Fill
}

// Fill is a colour.
type Fill string

// The colours.
const (
	Plain    Fill = "#9aa5b1"
	Emphasis Fill = "#2f6fde"
	Warning  Fill = "#d64545"
)

// The sizes of a picture, in pixels.
const (
	width      = 860
	labelWidth = 330
	valueWidth = 130
	barHeight  = 18
	barStep    = 30
	headHeight = 62
	footHeight = 34
)

const (
	dark = "#1f2933"
	grey = "#52606d"
)

func (b *Bar) end() (sum float64) {
	for _, p := range b.Parts {
		sum += p.Value
	}
	return sum
}

func (b *Bar) greatest() float64 { return max(b.end(), b.Range[1], b.Line) }

// Write draws the picture.
func (c *Bars) Write(w io.Writer) error {
	left, right := cmp.Or(c.LabelWidth, labelWidth), cmp.Or(c.ValueWidth, valueWidth)
	greatest := 0.0
	for i := range c.Bars {
		greatest = max(greatest, c.Bars[i].greatest())
	}
	if greatest == 0 {
		greatest = 1
	}
	x := func(v float64) float64 { return float64(left) + v/greatest*float64(width-left-right) }
	height := headHeight + barStep*len(c.Bars) + footHeight
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#ffffff"/>`+"\n")
	fmt.Fprintf(&b, `<text x="16" y="26" font-size="16" font-weight="bold" fill="%s">%s</text>`+"\n", dark, html.EscapeString(c.Title))
	fmt.Fprintf(&b, `<text x="16" y="46" fill="%s">%s</text>`+"\n", grey, html.EscapeString(c.Note))
	for i := range c.Bars {
		c.Bars[i].write(&b, headHeight+barStep*i, left, x)
	}
	fmt.Fprintf(&b, `<text x="16" y="%d" font-size="11" fill="%s">%s</text>`+"\n</svg>\n", height-12, grey, html.EscapeString(c.Legend))
	_, err := io.WriteString(w, b.String())
	return err
}

// write draws a bar below y; x is where a value is.
func (b *Bar) write(to *strings.Builder, y, left int, x func(float64) float64) {
	fmt.Fprintf(to, `<text x="%d" y="%d" text-anchor="end" fill="%s">%s</text>`+"\n", left-10, y+14, dark, html.EscapeString(b.Label))
	from := 0.0
	for _, p := range b.Parts {
		fmt.Fprintf(to, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", x(from), y, max(x(from+p.Value)-x(from), 0), barHeight, p.Fill)
		from += p.Value
	}
	if b.Range != [2]float64{} {
		middle := y + barHeight/2
		fmt.Fprintf(to, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s"/>`+"\n", x(b.Range[0]), middle, x(b.Range[1]), middle, dark)
	}
	if b.Line > 0 {
		fmt.Fprintf(to, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s" stroke-width="2"/>`+"\n", x(b.Line), y-3, x(b.Line), y+barHeight+3, Warning)
	}
	fmt.Fprintf(to, `<text x="%.1f" y="%d" fill="%s">%s</text>`+"\n", x(b.greatest())+8, y+14, dark, html.EscapeString(b.Text))
}
