// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// A graph is 1200 pixels wide, of which there are 96 in 72 points.
const (
	graphWidth, graphHeight = 900 * vg.Length(1), 480 * vg.Length(1)
	graphDPI                = 96
)

// lineColours tell targets apart; they differ in brightness, too.
var lineColours = []color.Color{
	color.RGBA{R: 0xc4, G: 0x3c, B: 0x0d, A: 0xff},
	color.RGBA{R: 0x12, G: 0x50, B: 0xa8, A: 0xff},
	color.RGBA{R: 0x2a, G: 0x8a, B: 0x4a, A: 0xff},
	color.RGBA{R: 0x7d, G: 0x4a, B: 0xa8, A: 0xff},
}

var (
	quiet = color.RGBA{R: 0x59, G: 0x59, B: 0x59, A: 0xff}
	grid  = color.RGBA{R: 0xe2, G: 0xe2, B: 0xe2, A: 0xff}
)

// DrawGraphs writes, for each scenario of the first round, the server's resident memory over time as dir/LABEL.svg and
// .png: a line for each target, thick while a phase is measured, with the target's name at its end, and a cross where a server died. It returns the
// paths without their suffixes.
func (r *Results) DrawGraphs(dir string) ([]string, error) {
	var labels []string
	runs := map[string][]*TargetRun{}
	for i := range r.Runs {
		run := &r.Runs[i]
		if run.Round > 0 || len(run.Samples) < 2 {
			continue
		}
		if runs[run.Label] == nil {
			labels = append(labels, run.Label)
		}
		runs[run.Label] = append(runs[run.Label], run)
	}
	var paths []string
	for _, label := range labels {
		path := filepath.Join(dir, label)
		if err := newGraph(label, r.MemoryLimit, runs[label]).save(path); err != nil {
			return paths, fmt.Errorf("graph of %s: %w", label, err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// graph is the memory of several runs of one scenario.
type graph struct {
	headline, subtitle string
	runs               []*TargetRun
	// limit is that of each server's memory, in bytes; 0 for none.
	limit int64
	// end is the last moment, highest the most memory.
	end, highest float64
}

func newGraph(label string, limit int64, runs []*TargetRun) *graph {
	g := &graph{headline: "Memory of the server (resident)", subtitle: label, runs: runs, limit: limit}
	for _, run := range runs {
		g.end = max(g.end, run.Samples[len(run.Samples)-1].Seconds)
		g.highest = max(g.highest, float64(most(run)))
		if run.Asks != "" && !strings.Contains(g.subtitle, run.Asks) {
			g.subtitle = label + ": " + run.Asks
		}
	}
	if limit > 0 {
		g.highest = max(g.highest, float64(limit))
	}
	return g
}

// most is the most memory of a run, in bytes.
func most(run *TargetRun) int64 {
	return slices.MaxFunc(run.Samples, func(a, b Sample) int { return int(a.RSS - b.RSS) }).RSS
}

// save writes path.svg and path.png.
func (g *graph) save(path string) error {
	vector := vgsvg.New(graphWidth, graphHeight)
	picture := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(graphWidth, graphHeight), vgimg.UseDPI(graphDPI))}
	for _, canvas := range []vg.CanvasSizer{vector, picture} {
		if err := g.draw(draw.New(canvas)); err != nil {
			return err
		}
	}
	var svg, png bytes.Buffer
	if _, err := vector.WriteTo(&svg); err != nil {
		return err
	}
	if _, err := picture.WriteTo(&png); err != nil {
		return err
	}
	if err := os.WriteFile(path+".svg", holdWidths(svg.Bytes()), 0o644); err != nil {
		return err
	}
	return os.WriteFile(path+".png", png.Bytes(), 0o644)
}

// draw draws the graph on a canvas: what it says above, the axes, and for each run its line and its labels.
func (g *graph) draw(c draw.Canvas) error {
	c.SetColor(color.White)
	c.Fill(c.Rectangle.Path())
	c = draw.Crop(c, 14, -14, 12, -14)
	bold, plain := textStyle(16, true, color.Black), textStyle(11, false, quiet)
	bold.YAlign, plain.YAlign = draw.YTop, draw.YTop
	c.FillText(bold, vg.Point{X: c.Min.X, Y: c.Max.Y}, g.headline)
	c.FillText(plain, vg.Point{X: c.Min.X, Y: c.Max.Y - 23}, cutTo(plain, g.subtitle+". Thick where it is measured.", c.Size().X))

	notes := &notes{graph: g}
	p, err := g.plot(notes)
	if err != nil {
		return err
	}
	notes.whole = c.Rectangle
	p.Draw(draw.Crop(c, 0, -notes.margin(c.Size().X), 0, -50))
	return nil
}

// plot has the axes and the lines, and the notes last, so that they are on top.
func (g *graph) plot(notes *notes) (*plot.Plot, error) {
	p := plot.New()
	p.BackgroundColor = nil
	p.X.Label.Text = "time since the server was started"
	p.X.Label.Padding = 6
	p.X.Label.TextStyle = textStyle(11, false, quiet)
	p.X.Label.TextStyle.XAlign = draw.XCenter
	p.X.Tick.Marker, p.Y.Tick.Marker = timeTicks{}, byteTicks{}
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		align := axis.Tick.Label
		axis.Tick.Label = textStyle(12, false, color.Black)
		axis.Tick.Label.XAlign, axis.Tick.Label.YAlign = align.XAlign, align.YAlign
		axis.Tick.Length = 0
		axis.Padding = 6
	}
	p.Y.LineStyle.Width = 0
	lines := plotter.NewGrid()
	lines.Vertical.Width = 0
	lines.Horizontal = draw.LineStyle{Color: grid, Width: 1}
	p.Add(lines)
	for i, run := range g.runs {
		if err := g.addLine(p, run, colourOf(i)); err != nil {
			return nil, err
		}
	}
	p.Add(notes)
	p.X.Min, p.X.Max = 0, g.end
	p.Y.Min = 0
	p.Y.Max = g.highest * 1.12 // room for labels
	return p, nil
}

func colourOf(run int) color.Color { return lineColours[run%len(lineColours)] }

// addLine adds a thin line of the whole run, and a thick one of each phase.
func (g *graph) addLine(p *plot.Plot, run *TargetRun, colour color.Color) error {
	add := func(samples []Sample, width vg.Length) error {
		if len(samples) < 2 {
			return nil
		}
		points := make(plotter.XYs, len(samples))
		for i, s := range samples {
			points[i] = plotter.XY{X: s.Seconds, Y: float64(s.RSS)}
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return err
		}
		line.Width, line.Color = width, colour
		p.Add(line)
		return nil
	}
	if err := add(run.Samples, 1.2); err != nil {
		return err
	}
	for _, phase := range run.Phases {
		if err := add(during(run, phase), 3.2); err != nil {
			return err
		}
	}
	return nil
}

// during are the samples of a phase. One that the server did not live through goes on to the last sample.
func during(run *TargetRun, phase *Phase) []Sample {
	from := slices.IndexFunc(run.Samples, func(s Sample) bool { return s.Seconds >= phase.Began })
	if from < 0 {
		return nil
	}
	to := from
	for to < len(run.Samples) && (len(phase.Errors) > 0 || run.Samples[to].Seconds <= phase.Began+phase.Wall) {
		to++
	}
	return run.Samples[from:to]
}

// memoryAt is the memory of a run at a time, in bytes.
func memoryAt(run *TargetRun, seconds float64) float64 {
	i := slices.IndexFunc(run.Samples, func(s Sample) bool { return s.Seconds >= seconds })
	if i < 0 {
		i = len(run.Samples) - 1
	}
	return float64(run.Samples[i].RSS)
}
