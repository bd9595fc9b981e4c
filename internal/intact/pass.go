// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package intact

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"unicode/utf8"
)

// maxDepth bounds how deep objects are looked into.
const maxDepth = 200

// pass is one pass over an object. Its methods that return a bool go over what they are called after, and return false if the object is not
// intact, or if that is not known.
type pass struct {
	data []byte
	// at is where the pass is in data.
	at    int
	depth int
	// prunes says that the schema prunes, defaults that it adds defaults.
	prunes, defaults bool
	// versioned says that the object is one as it is served: its metadata have a resourceVersion, and need no generation.
	versioned bool
}

// is goes over one byte.
func (p *pass) is(c byte) bool {
	if p.at < len(p.data) && p.data[p.at] == c {
		p.at++
		return true
	}
	return false
}

// peek returns the next byte, 0 at the end.
func (p *pass) peek() byte {
	if p.at < len(p.data) {
		return p.data[p.at]
	}
	return 0
}

// word goes over a literal.
func (p *pass) word(w string) bool {
	if !bytes.HasPrefix(p.data[p.at:], []byte(w)) {
		return false
	}
	p.at += len(w)
	return true
}

// members goes over an object, and calls value with each key, behind its colon; escaped says that it is written with escapes. Keys have to
// ascend: encoding/json writes maps so. n is how many there are.
func (p *pass) members(value func(key []byte, escaped bool) bool) (n int, ok bool) {
	if p.depth++; p.depth > maxDepth || !p.is('{') {
		return 0, false
	}
	if p.is('}') {
		p.depth--
		return 0, true
	}
	var before []byte
	for {
		raw, escaped, ok := p.text()
		if !ok {
			return 0, false
		}
		key := raw
		if escaped {
			key = unescape(raw)
		}
		if n > 0 && bytes.Compare(before, key) >= 0 || !p.is(':') || !value(key, escaped) {
			return 0, false
		}
		n++
		switch {
		case p.is(','):
			before = key
		case p.is('}'):
			p.depth--
			return n, true
		default:
			return 0, false
		}
	}
}

// elements goes over a list, and calls value at each of its n elements.
func (p *pass) elements(value func() bool) (n int, ok bool) {
	if p.depth++; p.depth > maxDepth || !p.is('[') {
		return 0, false
	}
	if p.is(']') {
		p.depth--
		return 0, true
	}
	for {
		if !value() {
			return 0, false
		}
		n++
		switch {
		case p.is(','):
		case p.is(']'):
			p.depth--
			return n, true
		default:
			return 0, false
		}
	}
}

// value goes over any value, of which n says something. pruned says that what n does not have is pruned. Upstream's three walks over an
// object (pruning, nulls, defaults) go from n to the same schemas below; see packages pruning and defaulting in
// k8s.io/apiextensions-apiserver/pkg/apiserver/schema, v1.37.2.
func (p *pass) value(n *node, pruned bool) bool {
	switch p.peek() {
	case '{':
		return p.object(n, pruned)
	case '[':
		var items *node
		if n != nil {
			n.unfold()
			items, pruned = n.items, pruned && !n.preserves
		}
		_, ok := p.elements(func() bool { return p.value(items, pruned) })
		return ok
	case '"':
		_, _, ok := p.text()
		return ok
	case 't':
		return p.word("true")
	case 'f':
		return p.word("false")
	case 'n':
		// What may not be null is taken away, or has its default.
		return (n == nil || n.nullable) && p.word("null")
	default:
		return p.number()
	}
}

// object is value for an object.
func (p *pass) object(n *node, pruned bool) bool {
	if n == nil {
		_, ok := p.members(func([]byte, bool) bool { return !pruned && p.value(nil, false) })
		return ok
	}
	if n.unsure {
		return false
	}
	n.unfold()
	defaults, ok := p.fields(n, pruned, nil)
	return ok && (!p.defaults || defaults == n.defaults)
}

// fields goes over the members of an object. It returns how many of those are there that have a default. Those of the root that are
// implied are left to root.
func (p *pass) fields(n *node, pruned bool, root func(key []byte) (mine, ok bool)) (defaults int, ok bool) {
	pruned = pruned && !n.preserves
	_, ok = p.members(func(key []byte, _ bool) bool {
		if root != nil {
			if mine, ok := root(key); mine {
				return ok
			}
		}
		child, known := n.child(key)
		switch {
		case known:
			if child != nil && child.defaulted {
				defaults++
			}
			// What is named, or a value of a map, is pruned even below what is not.
			return p.value(child, p.prunes)
		case pruned:
			return false
		default:
			return p.value(nil, false)
		}
	})
	return defaults, ok
}

// number goes over a number. It is read as an int64 if it is a whole number that is one, else as a float64; see util/json in
// k8s.io/apimachinery, v1.37.2.
func (p *pass) number() bool {
	begin := p.at
	p.is('-')
	digits := p.at
	for c := p.peek(); '0' <= c && c <= '9'; c = p.peek() {
		p.at++
	}
	n := p.at - digits
	switch c := p.peek(); {
	case n == 0:
		return false
	case c == '.' || c == 'e' || c == 'E':
		return p.float(begin)
	case p.data[digits] == '0':
		return n == 1 && digits == begin // neither 01 nor -0
	case n <= 18:
		return true
	default:
		_, err := strconv.ParseInt(string(p.data[begin:p.at]), 10, 64)
		return err == nil || p.float(begin)
	}
}

// float goes over a number that is read as a float64. It has to be one that is not written as a whole number that would be read as an
// int64.
func (p *pass) float(begin int) bool {
	for c := p.peek(); '0' <= c && c <= '9' || c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-'; c = p.peek() {
		p.at++
	}
	text := p.data[begin:p.at]
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil || f == math.Trunc(f) && f >= math.MinInt64 && f < math.MaxInt64 {
		return false
	}
	written, err := json.Marshal(f)
	return err == nil && bytes.Equal(written, text)
}

// asIs are the bytes that encoding/json writes in a string as they are.
var asIs = func() (t [256]bool) {
	for c := byte(' '); c < utf8.RuneSelf; c++ {
		t[c] = !bytes.ContainsRune([]byte(`"\<>&`), rune(c))
	}
	return t
}()

// text goes over a string, and returns what is between its quotes.
func (p *pass) text() (raw []byte, escaped, ok bool) {
	if !p.is('"') {
		return nil, false, false
	}
	data, i := p.data, p.at
	for {
		for i < len(data) && asIs[data[i]] {
			i++
		}
		if i == len(data) {
			return nil, false, false
		}
		switch c := data[i]; {
		case c == '"':
			raw = data[p.at:i]
			p.at = i + 1
			return raw, escaped, true
		case c == '\\':
			n := escape(data[i:])
			if n == 0 {
				return nil, false, false
			}
			escaped = true
			i += n
		case c < utf8.RuneSelf:
			return nil, false, false
		default:
			r, n := utf8.DecodeRune(data[i:])
			if r == utf8.RuneError && n == 1 || r == '\u2028' || r == '\u2029' {
				return nil, false, false
			}
			i += n
		}
	}
}

// escape returns how long the escape is that text begins with, 0 if it is not one that encoding/json writes.
func escape(text []byte) int {
	if len(text) < 2 {
		return 0
	}
	switch text[1] {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
	default:
		return 0
	}
	if len(text) < 6 {
		return 0
	}
	r := rune(0)
	for _, c := range text[2:6] {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		default:
			return 0
		}
	}
	switch r {
	case '\b', '\f', '\n', '\r', '\t':
		return 0 // have shorter ones
	case '<', '>', '&', '\u2028', '\u2029':
		return 6
	}
	if r < ' ' {
		return 6
	}
	return 0
}

// unescape returns what a string that text has gone over is.
func unescape(raw []byte) []byte {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); {
		c := raw[i]
		if c != '\\' {
			out = append(out, c)
			i++
			continue
		}
		switch raw[i+1] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, _ := strconv.ParseUint(string(raw[i+2:i+6]), 16, 32) // text has seen that it is one
			out = utf8.AppendRune(out, rune(r))
			i += len("0000")
		default:
			out = append(out, raw[i+1])
		}
		i += 2
	}
	return out
}
