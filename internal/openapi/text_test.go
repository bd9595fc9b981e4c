// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"bytes"
	"testing"
)

// An object is taken apart only if it can be put together again.
func TestSplit(t *testing.T) {
	for text, want := range map[string]bool{
		`{}`: true, `{"a":1}`: true, `{"a":{"b":[1,2]},"c":"<"}`: true,
		`{ "a":1}`: false, `{"a": 1}`: false, "{\"a\":1}\n": false, `{"\u0061":1}`: false, `{"a\"":1}`: false,
		`[]`: false, ``: false, `null`: false, `{"a":1`: false, `{"a":1}{`: false,
	} {
		members, err := split([]byte(text))
		if (err == nil) != want {
			t.Errorf("%s: %v", text, err)
		}
		if err == nil && string(object(members)) != text {
			t.Errorf("%s became %s", text, object(members))
		}
	}
}

func TestPack(t *testing.T) {
	for _, text := range [][]byte{nil, []byte("a"), bytes.Repeat([]byte("text "), 100_000)} {
		p, err := pack(text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.unpack()
		if err != nil || !bytes.Equal(got, text) {
			t.Errorf("%d bytes became %d: %v", len(text), len(got), err)
		}
	}
}
