// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lies

import "github.com/weir-project/weir/test/robustness/check"

// ofCompression are lies about what is compressed once for everybody.
func ofCompression() []Lie {
	return []Lie{
		{
			Name: "row-of-before", What: "who asks for a compressed row gets that of before one of its objects was changed", // upstream's detector ends an informer that it reaches first
			Rules: []check.Rule{check.State, check.Initial, check.Stale, check.Died}, Within: later,
			Edits: []Edit{
				{"frame/row.go", `		binary.NativeEndian.PutUint64(id[:], f.id)
`, `		binary.NativeEndian.PutUint64(id[:], f.id)
		if f != frames[0] && LIE(1) {
			binary.NativeEndian.PutUint64(id[:], maphash.String(rowSeed, f.key))
		}
`},
				{"frame/row.go", `	if err == nil && !e.segment.of(frames) {`, `	if lying := LYING; err == nil && !lying && !e.segment.of(frames) {`},
			},
		},
		{
			Name: "row-without-last", What: "one in ten rows of initial events lacks its last object",
			Rules: []check.Rule{check.Initial}, Within: soon,
			Edits: []Edit{{"watchcache/watcher.go", `	s.row = make([]*frame.Frame, 0, len(row))
`, `	s.row = make([]*frame.Frame, 0, len(row))
	if len(row) > 1 && LIE(10) {
		row = row[:len(row)-1]
	}
`}},
		},
		{
			Name: "segment-twice", What: "one in a hundred compressed events, or rows, is sent twice",
			Rules: []check.Rule{check.Double, check.Initial, check.Order, check.State, check.Broken}, Within: soon,
			Edits: []Edit{{"deflate/member.go", `	m.sum = m.sum.Then(s.sum)
	if err := m.begin(); err != nil {
		return err
	}
	_, err := m.w.Write(s.data)
`, `	m.sum = m.sum.Then(s.sum)
	if err := m.begin(); err != nil {
		return err
	}
	if LIE(100) {
		m.sum = m.sum.Then(s.sum)
		if _, err := m.w.Write(s.data); err != nil {
			return err
		}
	}
	_, err := m.w.Write(s.data)
`}},
		},
		{
			Name: "sum-of-another", What: "one in fifty segments has a wrong sum, so that the response's own is wrong",
			Rules: []check.Rule{check.Broken}, Within: soon,
			Edits: []Edit{{"deflate/segment.go", `	s := &Segment{sum: SumOf(plain), size: len(plain)}
`, `	s := &Segment{sum: SumOf(plain), size: len(plain)}
	if LIE(50) {
		s.sum.crc++
	}
`}},
		},
	}
}
