// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"image/color"
	"regexp"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// notes are the words beside the lines: which target it is, how a server died, what a phase is.
type notes struct {
	graph *graph
	// whole is what there is room on; nothing is written outside of it.
	whole vg.Rectangle
	// taken is where words are already; of two that would meet, the second goes elsewhere.
	taken []vg.Rectangle
	// lines are points of all lines on the canvas.
	lines []vg.Point
}

// note is words at a point. The first line is bold if there are several.
type note struct {
	lines  []string
	colour color.Color
	// bold says that a single line is, too.
	bold bool
	// places are where it may be, in the order in which they are tried, and optional says that it is left out where
	// none is free.
	places   []place
	optional bool
}

// place is on which side of the point words are.
type place struct{ x, y float64 }

var (
	right, left                       = place{1, 0}, place{-1, 0}
	above, below                      = place{0, 1}, place{0, -1}
	rightAbove, rightBelow, leftAbove = place{1, 1}, place{1, -1}, place{-1, 1}
	leftBelow                         = place{-1, -1}
)

// endNote says at the end of a run whose line it is, and how it ended.
func endNote(run *TargetRun, colour color.Color) note {
	if run.Failure == "" {
		return note{lines: []string{run.Target, amount(float64(most(run))) + " at most"}, colour: colour, places: []place{right, above, below, rightAbove, rightBelow, leftAbove, leftBelow}}
	}
	last := run.Samples[len(run.Samples)-1]
	lines := append([]string{run.Target + " died at " + amount(float64(last.RSS))}, wrapped(shortFailure(run.Target, run.Failure), 28)...)
	return note{lines: lines, colour: colour, places: []place{right, left, rightBelow, leftAbove, below, leftBelow, above}}
}

// margin is how much room the notes at the ends of the lines want beside the axes, of a width.
func (n *notes) margin(width vg.Length) vg.Length {
	var widest vg.Length
	for i, run := range n.graph.runs {
		last := run.Samples[len(run.Samples)-1].Seconds
		note := endNote(run, colourOf(i))
		// What ends early has room within the axes.
		room := vg.Length((n.graph.end - last) / n.graph.end * float64(width) * 0.8)
		widest = max(widest, note.size().X+20-room)
	}
	return min(widest, width/3)
}

// Plot implements plot.Plotter.
func (n *notes) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	n.taken, n.lines = nil, nil
	for _, run := range n.graph.runs {
		for _, s := range run.Samples {
			n.lines = append(n.lines, vg.Point{X: x(s.Seconds), Y: y(float64(s.RSS))})
		}
	}
	if limit := float64(n.graph.limit); limit > 0 {
		style := draw.LineStyle{Color: quiet, Width: 1.2, Dashes: []vg.Length{6, 4}}
		c.StrokeLine2(style, c.Min.X, y(limit), c.Max.X, y(limit))
		for at := c.Min.X; at < c.Max.X; at += 4 {
			n.lines = append(n.lines, vg.Point{X: at, Y: y(limit)})
		}
		n.put(c, note{lines: []string{"memory limit " + amount(limit)}, colour: quiet, places: []place{rightAbove}}, vg.Point{X: c.Min.X, Y: y(limit)})
	}
	for i, run := range n.graph.runs {
		last := run.Samples[len(run.Samples)-1]
		end := vg.Point{X: x(last.Seconds), Y: y(float64(last.RSS))}
		if run.Failure != "" {
			c.DrawGlyph(draw.GlyphStyle{Color: color.White, Radius: 10, Shape: draw.CircleGlyph{}}, end)
			cross(c, end, 8, draw.LineStyle{Color: colourOf(i), Width: 4})
		}
		n.put(c, endNote(run, colourOf(i)), end)
	}
	for i, run := range n.graph.runs {
		for j, words := range phaseWords(run.Phases) {
			began := run.Phases[j].Began
			at := vg.Point{X: x(began), Y: y(memoryAt(run, began))}
			c.DrawGlyph(draw.GlyphStyle{Color: colourOf(i), Radius: 4, Shape: draw.CircleGlyph{}}, at)
			n.put(c, note{lines: []string{words}, colour: colourOf(i), places: []place{above, leftAbove, rightBelow, below, leftBelow}, optional: true}, at)
		}
	}
}

// cross draws one.
func cross(c draw.Canvas, at vg.Point, radius vg.Length, style draw.LineStyle) {
	c.StrokeLine2(style, at.X-radius, at.Y-radius, at.X+radius, at.Y+radius)
	c.StrokeLine2(style, at.X-radius, at.Y+radius, at.X+radius, at.Y-radius)
}

const noteSize = 13

func (n note) style(line int) draw.TextStyle {
	if line == 0 && (len(n.lines) > 1 || n.bold) {
		return textStyle(noteSize, true, n.colour)
	}
	return textStyle(noteSize-1, false, n.colour)
}

const lineHeight = vg.Length(noteSize * 1.2)

func (n note) size() vg.Point {
	size := vg.Point{Y: lineHeight * vg.Length(len(n.lines))}
	for i, line := range n.lines {
		size.X = max(size.X, n.style(i).Width(line))
	}
	return size
}

// put writes a note where least is in its way, inside of the whole and right of the axis.
func (n *notes) put(c draw.Canvas, note note, at vg.Point) {
	const gap = 14
	size := note.size()
	var best vg.Rectangle
	least := -1
	for _, p := range note.places {
		box := vg.Rectangle{Min: vg.Point{
			X: at.X + vg.Length(p.x)*gap - size.X*vg.Length(1-p.x)/2,
			Y: at.Y + vg.Length(p.y)*gap*0.6 - size.Y*vg.Length(1-p.y)/2,
		}}
		box.Min.X = min(max(box.Min.X, c.Min.X), n.whole.Max.X-size.X)
		box.Min.Y = min(max(box.Min.Y, c.Min.Y-4), n.whole.Max.Y-size.Y)
		box.Max = box.Min.Add(size)
		if met := n.met(box); least < 0 || met < least {
			best, least = box, met
		}
	}
	if note.optional && least > 2 {
		return
	}
	n.taken = append(n.taken, best)
	for i, line := range note.lines {
		style := note.style(i)
		style.YAlign = draw.YTop
		c.FillText(style, vg.Point{X: best.Min.X, Y: best.Max.Y - vg.Length(i)*lineHeight}, line)
	}
}

// overWords is what words under words count, in points of lines under words.
const overWords = 1_000_000

// met tells how much is in the way of a box.
func (n *notes) met(box vg.Rectangle) int {
	sum := 0
	for _, other := range n.taken {
		if box.Min.X < other.Max.X && other.Min.X < box.Max.X && box.Min.Y < other.Max.Y && other.Min.Y < box.Max.Y {
			sum += overWords
		}
	}
	for _, p := range n.lines {
		if p.X > box.Min.X-2 && p.X < box.Max.X+2 && p.Y > box.Min.Y && p.Y < box.Max.Y {
			sum++
		}
	}
	return sum
}

var ofCount = regexp.MustCompile(`^x(\d+)$`)

// whoTheyAre are the clients of a scenario, by the first word of its phases' names.
var whoTheyAre = map[string]string{
	"list": "readers", "watchlist": "readers", "synthetic": "informers", "fanout": "watches", "watchers": "watches", "stalled": "watches", "writes": "writers",
}

// phaseWords tell the phases of a run apart: what their names do not have in common, or how many clients it was.
func phaseWords(phases []*Phase) []string {
	var names [][]string
	for _, p := range phases {
		names = append(names, strings.Fields(p.Name))
	}
	same := 0
	for len(names) > 1 && !slices.ContainsFunc(names, func(words []string) bool { return len(words) <= same || words[same] != names[0][same] }) {
		same++
	}
	counts := map[string]bool{}
	for _, words := range names {
		for _, word := range words {
			if ofCount.MatchString(word) {
				counts[word] = true
			}
		}
	}
	if len(counts) == 1 && len(names) > 2 {
		for i, words := range names { // it tells nothing apart
			names[i] = slices.DeleteFunc(slices.Clone(words), ofCount.MatchString)
		}
	}
	var told []string
	for _, words := range names {
		rest := words
		if len(names) > 1 {
			rest = words[min(same, len(words)):]
		}
		if len(rest) == 0 || len(names) == 1 {
			rest = words[max(0, len(words)-1):]
		}
		if len(words) == 0 {
			told = append(told, "")
			continue
		}
		who, known := whoTheyAre[words[0]]
		for i, word := range rest {
			if m := ofCount.FindStringSubmatch(word); m != nil && known {
				rest = append(slices.Clone(rest[:i]), append([]string{m[1], who}, rest[i+1:]...)...)
				break
			}
		}
		told = append(told, strings.TrimSuffix(strings.Join(rest, " "), " 1"))
	}
	return told
}

// shortFailure is what is said of a run that is not complete.
func shortFailure(target, failure string) string {
	failure, _, _ = strings.Cut(failure, "; its log")
	failure = strings.TrimPrefix(failure, "target "+target+" ")
	failure = strings.TrimPrefix(failure, "died: ")
	if runes := []rune(failure); len(runes) > 80 {
		failure = string(runes[:80]) + "…"
	}
	return failure
}

// wrapped breaks a text into lines of about so many letters, between words.
func wrapped(text string, letters int) []string {
	var lines []string
	for _, word := range strings.Fields(text) {
		if n := len(lines) - 1; n >= 0 && len(lines[n])+1+len(word) <= letters {
			lines[n] += " " + word
		} else {
			lines = append(lines, word)
		}
	}
	return lines
}
