// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"github.com/weir-project/weir/internal/bench/client"
	"github.com/weir-project/weir/internal/bench/report"
)

// form is how clients want what they ask for, in the name of a phase.
func form(f client.Format, gzip bool) string {
	if gzip {
		return string(f) + " gzip"
	}
	return string(f)
}

// asks says what clients ask for.
func asks(clients, what string, f client.Format, gzip bool) string {
	compression := "no compression"
	if gzip {
		compression = "gzip"
	}
	return clients + " ask for " + what + ", " + string(f) + ", " + compression
}

// labelled is a scenario's label with what sets it apart.
func labelled(label string, gzip bool) string {
	if gzip {
		return label + "-gzip"
	}
	return label
}

// tellWire notes what came over the connections, and how much of it was compressed if that was asked for.
func (s *session) tellWire(p *report.Phase, done client.Report, gzip bool) {
	p.Figures["wire MB"] = float64(done.Bytes) / 1e6
	if !gzip {
		return
	}
	plain := done.Responses - done.Compressed
	p.Figures["responses gzip"] = float64(done.Compressed)
	p.Figures["responses plain"] = float64(plain)
	if plain > 0 {
		s.View.Say("  %d of %d responses came uncompressed", plain, done.Responses)
	}
	if done.Members > 0 { // informers do not see them
		p.Figures["gzip members"] = float64(done.Members)
		p.Figures["inflated MB"] = float64(done.Plain) / 1e6
	}
}
