// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/weir-project/weir/internal/rig"
)

// run is two hours of two servers, a sample each minute, with noise. grow changes the sample of the part of the time that
// has gone by.
func run(grow func(part float64, s *Sample)) []Sample {
	r := rand.New(rand.NewPCG(1, 2))
	var samples []Sample
	const n = 120
	for i := range n {
		for _, name := range []string{"a", "b"} {
			s := Sample{Server: name, After: time.Duration(i) * time.Minute, Metrics: rig.Metrics{
				RSS: 300e6 + int64(r.IntN(20e6)), Goroutines: 900 + int64(r.IntN(100)), Descriptors: 60 + int64(r.IntN(10)),
				Purposes: map[string]int64{"frames": 5e6, "history": 20e6 + int64(r.IntN(1e6))},
			}}
			if i%5 == 4 {
				s.Live = 100e6 + int64(r.IntN(2e6))
			}
			if name == "b" {
				grow(float64(i)/n, &s)
			}
			samples = append(samples, s)
		}
	}
	return samples
}

func TestJudge(t *testing.T) {
	for _, test := range []struct {
		name  string
		grow  func(part float64, s *Sample)
		grown string // the one row that has
	}{
		{"noise", func(float64, *Sample) {}, ""},
		{"a start that fills", func(part float64, s *Sample) { s.RSS = min(s.RSS, int64(part*1200e6)) }, ""},
		{"memory", func(part float64, s *Sample) { s.RSS += int64(part * 60e6) }, "b RSS MB"},
		{"live heap", func(part float64, s *Sample) { s.Live += int64(part * 25e6) }, "b live heap MB"},
		{"goroutines", func(part float64, s *Sample) { s.Goroutines += int64(part * 240) }, "b goroutines"},
		{"descriptors", func(part float64, s *Sample) { s.Descriptors += int64(part * 40) }, "b descriptors"},
		{"a purpose", func(part float64, s *Sample) { s.Purposes["frames"] += int64(part * 5e6) }, "b ledger frames MB"},
	} {
		rows, err := Judge(run(test.grow))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if want := 2 * (len(measures) + 2); len(rows) != want {
			t.Errorf("%s: %d rows, not %d", test.name, len(rows), want)
		}
		var grown []string
		for _, r := range rows {
			if r.Grown {
				grown = append(grown, r.Server+" "+r.Measure)
			}
		}
		if got := strings.Join(grown, ", "); got != test.grown {
			t.Errorf("%s: %q has grown, not %q", test.name, got, test.grown)
		}
	}
}

// Nothing is flat that was not seen.
func TestJudgeNeedsSamples(t *testing.T) {
	if _, err := Judge(nil); err == nil {
		t.Error("no samples are judged")
	}
	whole := run(func(float64, *Sample) {})
	if _, err := Judge(whole[:8]); err == nil {
		t.Error("four minutes are judged")
	}
	if _, err := Judge(run(func(_ float64, s *Sample) { s.Live = 0 })); err == nil || !strings.Contains(err.Error(), "live heap MB of b") {
		t.Errorf("a measure that is not told is judged: %v", err)
	}
}

func TestDrawing(t *testing.T) {
	samples := run(func(float64, *Sample) {})
	var svg, csv bytes.Buffer
	if err := Draw(&svg, samples); err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(svg.Bytes())); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"history, a", "RSS, b", "descriptors", "minutes"} {
		if !strings.Contains(svg.String(), want) {
			t.Errorf("the drawing does not say %q", want)
		}
	}
	if err := WriteCSV(&csv, samples); err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(csv.String(), "\n")
	if want := "seconds,server,RSS MB,live heap MB,goroutines,descriptors,ledger frames MB,ledger history MB"; head != want {
		t.Errorf("the columns are %s, not %s", head, want)
	}
	if first := strings.SplitN(rest, "\n", 2)[0]; !strings.HasPrefix(first, "0,a,3") || strings.Count(first, ",") != 7 {
		t.Errorf("the first line is %s", first)
	}
	if got := strings.Count(rest, "\n"); got != len(samples) {
		t.Errorf("%d lines for %d samples", got, len(samples))
	}
}
