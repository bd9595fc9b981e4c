// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"fmt"
	"html"
	"html/template"
	"strings"
	"time"
)

// A chart's measures, in pixels.
const (
	chartWidth = 1240.0
	chartLeft  = 150.0 // where time begins; the lanes' names are before
	laneHeight = 20.0
	charWidth  = 6.3 // of a label's character
)

// chart is lanes over one axis of time, as SVG. Its lanes are added from the top to the bottom.
type chart struct {
	from, to time.Time
	y        float64
	b        strings.Builder
	labelEnd float64 // in the current lane, where the last label ends
}

func newChart(from, to time.Time) *chart {
	if !to.After(from) {
		to = from.Add(time.Second)
	}
	c := &chart{from: from, to: to, y: 18}
	step := niceStep(to.Sub(from))
	for t := from.Truncate(step).Add(step); t.Before(to); t = t.Add(step) {
		form := "15:04:05"
		if step < time.Second {
			form = "05.000"
		}
		fmt.Fprintf(&c.b, `<text class="time" x="%.1f" y="10">%s</text>`, c.x(t), t.UTC().Format(form))
	}
	return c
}

// niceStep makes about ten steps of a span, each of a round length.
func niceStep(span time.Duration) time.Duration {
	for _, step := range []time.Duration{
		time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second,
		5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute,
	} {
		if span/step <= 14 {
			return step
		}
	}
	return time.Hour
}

// x is where a time is, at the edge if it is outside.
func (c *chart) x(t time.Time) float64 {
	share := float64(t.Sub(c.from)) / float64(c.to.Sub(c.from))
	return chartLeft + max(0, min(1, share))*(chartWidth-chartLeft)
}

// overlaps tells whether any of a span is in the chart.
func (c *chart) overlaps(from, to time.Time) bool { return !from.After(c.to) && !to.Before(c.from) }

// lane begins the next lane.
func (c *chart) lane(name string) {
	c.y += laneHeight
	c.labelEnd = 0
	fmt.Fprintf(&c.b, `<line class="lane" x1="%.0f" x2="%.0f" y1="%.1f" y2="%.1f"/>`, chartLeft, chartWidth, c.y-6, c.y-6)
	if name != "" {
		fmt.Fprintf(&c.b, `<text class="name" x="%.0f" y="%.1f">%s</text>`, chartLeft-8, c.y-2, html.EscapeString(name))
	}
}

// bar is a span in the current lane. Its text is written where there is room; full is shown by a pointer that rests on it.
func (c *chart) bar(s span) {
	if !c.overlaps(s.from, s.to) {
		return
	}
	x1, x2 := c.x(s.from), c.x(s.to)
	width := max(x2-x1, 2)
	fmt.Fprintf(&c.b, `<g><title>%s</title><rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="14" rx="2"/></g>`, html.EscapeString(s.full), s.class, x1, c.y-13, width)
	size := float64(len(s.text)) * charWidth
	switch {
	case s.text == "":
	case size < width-4:
		c.label(x1+3, s.class+" in", s.text)
	case x1 > c.labelEnd && x2+size < chartWidth:
		c.label(x2+3, "out", s.text)
	}
	if s.class != "up" { // others are drawn over it
		c.labelEnd = max(c.labelEnd, x2)
	}
}

func (c *chart) label(x float64, class, text string) {
	fmt.Fprintf(&c.b, `<text class="%s" x="%.1f" y="%.1f">%s</text>`, class, x, c.y-2, html.EscapeString(text))
	c.labelEnd = x + float64(len(text))*charWidth
}

// tick is a moment in the current lane.
func (c *chart) tick(t time.Time, class, text, full string) {
	if !c.overlaps(t, t) {
		return
	}
	x := c.x(t)
	fmt.Fprintf(&c.b, `<g><title>%s</title><line class="tick %s" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/></g>`, html.EscapeString(full), class, x, x, c.y-13, c.y+1)
	if size := float64(len(text)) * charWidth; text != "" && x > c.labelEnd && x+size < chartWidth {
		c.label(x+3, class+" out", text)
	}
}

// across is a moment in all lanes so far.
func (c *chart) across(t time.Time) {
	if c.overlaps(t, t) {
		fmt.Fprintf(&c.b, `<line class="across" x1="%.1f" x2="%.1f" y1="14" y2="%.1f"/>`, c.x(t), c.x(t), c.y+4)
	}
}

// rows puts spans into as few lanes as they need, so that none covers another's bar, and at most so many.
func (c *chart) rows(name string, spans []span, most int) {
	var ends []float64
	var rows [][]span
	left := 0
	for _, s := range spans {
		if !c.overlaps(s.from, s.to) {
			continue
		}
		x1, x2 := c.x(s.from), max(c.x(s.to), c.x(s.from)+2)+3
		if size := float64(len(s.text))*charWidth + 6; size > x2-x1 {
			x2 += size
		}
		row := 0
		for row < len(ends) && ends[row] > x1 {
			row++
		}
		switch {
		case row == most:
			left++
			continue
		case row == len(ends):
			ends, rows = append(ends, 0), append(rows, nil)
		}
		ends[row], rows[row] = x2, append(rows[row], s)
	}
	for i, row := range rows {
		if i > 0 {
			name = ""
		}
		c.lane(name)
		for _, s := range row {
			c.bar(s)
		}
	}
	if left > 0 {
		c.lane("")
		c.label(chartLeft, "out", fmt.Sprintf("and %d more", left))
	}
}

func (c *chart) svg() template.HTML {
	return template.HTML(fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f">%s</svg>`,
		chartWidth+10, c.y+12, chartWidth+10, c.y+12, c.b.String()))
}
