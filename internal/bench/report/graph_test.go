// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/xml"
	"fmt"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// words are one text of a picture, and the box that they have in it, in points from the upper left.
type words struct {
	text                     string
	left, top, right, bottom float64
}

func (a words) meets(b words) bool {
	return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom
}

// picture is what an SVG says.
type picture struct {
	width, height float64
	words         []words
}

func read(t *testing.T, path string) picture {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	var p picture
	var at *words
	for d := xml.NewDecoder(file); ; {
		token, err := d.Token()
		if token == nil {
			return p
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			at = nil
			attribute := map[string]string{}
			for _, a := range token.Attr {
				attribute[a.Name.Local] = a.Value
			}
			number := func(name string) float64 {
				n, err := strconv.ParseFloat(strings.TrimSuffix(attribute[name], "pt"), 64)
				if err != nil {
					t.Fatalf("%s of %s: %v", name, token.Name.Local, err)
				}
				return n
			}
			switch token.Name.Local {
			case "svg":
				p.width, p.height = number("width"), number("height")
			case "text":
				if !strings.Contains(attribute["style"], ",sans-serif") || attribute["lengthAdjust"] != "spacingAndGlyphs" {
					t.Errorf("a text whose width hangs on the font: %v", attribute)
				}
				_, size, _ := strings.Cut(attribute["style"], "font-size:")
				height, err := strconv.ParseFloat(strings.TrimRight(strings.SplitN(size, "px", 2)[0], " "), 64)
				if err != nil {
					t.Fatalf("%v: %v", attribute, err)
				}
				x, y := number("x"), p.height+number("y") // the picture is turned over, and each text again
				p.words = append(p.words, words{left: x, right: x + number("textLength"), top: y - height*0.8, bottom: y + height*0.2})
				at = &p.words[len(p.words)-1]
			}
		case xml.EndElement:
			at = nil
		case xml.CharData:
			if at != nil {
				at.text += string(token)
			}
		}
	}
}

// hard is a run whose words have little room: the second target dies at the right edge, near the limit, and the lines are close to each other.
func hard() *Results {
	r := &Results{MemoryLimit: 4 << 30, Targets: []Target{{Name: "weir"}, {Name: "stock"}, {Name: "a-target-with-a-long-name"}}}
	for i, target := range r.Targets {
		run := TargetRun{Target: target.Name, Scenario: "synthetic", Label: "synthetic-protobuf-watchlist-gzip", Asks: "client-go informers ask for watch lists, " + strings.Repeat("and so on ", 30)}
		until := []int{100, 120, 119}[i]
		for j := range until {
			run.Samples = append(run.Samples, Sample{Seconds: float64(j), RSS: int64(1e8 + float64(j)*[]float64{3e6, 3.4e7, 3.1e6}[i])})
		}
		for j, n := range []int{16, 64, 256} {
			run.Phases = append(run.Phases, &Phase{Name: fmt.Sprintf("synthetic protobuf watchlist x%d", n), Began: float64(10 + 30*j), Wall: 20})
		}
		r.Runs = append(r.Runs, run)
	}
	r.Runs[1].Failure = "target stock died: signal: killed: the kernel ended it because its memory was all used; its log x ends: y"
	r.Runs[1].Phases[2].Errors = []string{"died"}
	return r
}

// TestWordsHaveRoom: in whatever font, all words are inside of the picture, and none are on others.
func TestWordsHaveRoom(t *testing.T) {
	for name, results := range map[string]*Results{"easy": twoTargets(), "hard": hard()} {
		paths, err := results.DrawGraphs(t.TempDir())
		if err != nil || len(paths) != 1 {
			t.Fatalf("%s: %v, %v", name, paths, err)
		}
		p := read(t, paths[0]+".svg")
		if p.width != 900 || p.height < 300 || p.height > 700 { // points: 1200 pixels
			t.Errorf("%s: %v × %v points", name, p.width, p.height)
		}
		if len(p.words) < 10 {
			t.Errorf("%s: only %d texts", name, len(p.words))
		}
		for i, w := range p.words {
			if w.left < 0 || w.top < 0 || w.right > p.width || w.bottom > p.height {
				t.Errorf("%s: %+v is not inside of %v × %v", name, w, p.width, p.height)
			}
			for _, other := range p.words[:i] {
				if w.meets(other) {
					t.Errorf("%s: %+v is on %+v", name, w, other)
				}
			}
		}
		file, err := os.Open(paths[0] + ".png")
		if err != nil {
			t.Fatal(err)
		}
		image, err := png.Decode(file)
		_ = file.Close()
		if err != nil || image.Bounds().Dx() != 1200 {
			t.Errorf("%s: the PNG is %v: %v", name, image.Bounds(), err)
		}
	}
}

// TestGraphTellsItAtOnce: the names stand at the ends of the lines, with the most that each took; the death is told, where it happened,
// and the phases by how many clients they had.
func TestGraphTellsItAtOnce(t *testing.T) {
	paths, err := hard().DrawGraphs(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := read(t, paths[0]+".svg")
	find := func(text string) words {
		t.Helper()
		i := slices.IndexFunc(p.words, func(w words) bool { return w.text == text })
		if i < 0 {
			t.Errorf("nothing says %q in %+v", text, p.words)
			return words{}
		}
		return p.words[i]
	}
	for _, text := range []string{"16 informers", "397 MB at most", "memory limit 4.3 GB", "1 GB", "4 GB", "60 s", "signal: killed: the kernel"} {
		find(text)
	}
	scale := func(label string) float64 { w := find(label); return (w.top + w.bottom) / 2 }
	perGB := scale("1 GB") - scale("2 GB")
	// weir ends at 397 MB, stock at 4.1 GB.
	if at := scale("weir"); at < scale("1 GB") || at > scale("0")+10 {
		t.Errorf("weir is named at %v, which is not beside its line", at)
	}
	if died := find("stock died at 4.1 GB"); died.bottom < scale("4 GB")-perGB || died.top > scale("4 GB")+perGB/2 {
		t.Errorf("the death is told at %v to %v, 4 GB is at %v", died.top, died.bottom, scale("4 GB"))
	}
	svg, err := os.ReadFile(paths[0] + ".svg")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(svg), "stroke-width:4"); n != 2 {
		t.Errorf("a cross has two strokes, this one %d", n)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(paths[0]), "synthetic-protobuf-watchlist-gzip.png")); err != nil {
		t.Error(err)
	}
}

// TestTicksAreRound: scales of all sizes have few ticks, from 0 on, all of them round, in one unit.
func TestTicksAreRound(t *testing.T) {
	for _, to := range []float64{3, 900, 1e6, 1.1e8, 4.4e8, 5e8, 9.99e8, 1e9, 1.999e9, 2e9, 3.3e9, 1.09e10, 5e10, 7e11} {
		ticks := byteTicks{}.Ticks(0, to)
		if len(ticks) < 3 || len(ticks) > mostTicks+1 || ticks[0].Label != "0" {
			t.Errorf("to %g: %v", to, ticks)
		}
		for _, tick := range ticks[1:] {
			number, unit, _ := strings.Cut(tick.Label, " ")
			if unit != map[bool]string{true: "GB", false: "MB"}[to >= 2e9] || to >= 1e8 && len(strings.TrimRight(strings.Replace(number, ".", "", 1), "0")) > 2 {
				t.Errorf("to %g: %q", to, tick.Label)
			}
		}
	}
	for to, want := range map[float64]string{7: "0 1 s 2 s 3 s 4 s 5 s 6 s 7 s", 48: "0 10 s 20 s 30 s 40 s", 100: "0 15 s 30 s 45 s 60 s 75 s 90 s", 350: "0 1 min 2 min 3 min 4 min 5 min", 7300: "0 30 min 60 min 90 min 120 min", 20000: "0 1 h 2 h 3 h 4 h 5 h"} {
		var got []string
		for _, tick := range (timeTicks{}).Ticks(0, to) {
			got = append(got, tick.Label)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("to %v s: %v, want %s", to, got, want)
		}
	}
}

// TestPhaseWords: what tells phases apart is said, and no more.
func TestPhaseWords(t *testing.T) {
	for _, test := range []struct{ names, want []string }{
		{[]string{"synthetic protobuf gzip watchlist x16", "synthetic protobuf gzip watchlist x64"}, []string{"16 informers", "64 informers"}},
		{[]string{"watchlist b protobuf x8", "watchlist b protobuf x8 again 1", "watchlist b protobuf x16"}, []string{"8 readers", "8 readers again", "16 readers"}},
		{[]string{"watchlist b protobuf x8", "watchlist b protobuf x8 again 1"}, []string{"8 readers", "again"}},
		{[]string{"writes x8"}, []string{"8 writers"}},
		{[]string{"start", "settled"}, []string{"start", "settled"}},
		{[]string{"start", "list b json x16", "list a json x16"}, []string{"start", "list b json", "list a json"}},
		{[]string{"x16"}, []string{"x16"}},
		{[]string{""}, []string{""}},
	} {
		var phases []*Phase
		for _, name := range test.names {
			phases = append(phases, &Phase{Name: name})
		}
		if got := phaseWords(phases); !slices.Equal(got, test.want) {
			t.Errorf("%q: %q, want %q", test.names, got, test.want)
		}
	}
}
