// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"bytes"
	"encoding/json"
	"fmt"

	"sigs.k8s.io/yaml"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/wire"
)

// lineFunc turns an item in JSON, in two parts, into the lines that stand for it in a list.
// They are valid until the next call.
type lineFunc func(f *frame.Frame, head, rest []byte) ([]byte, error)

// pretty returns a lineFunc that indents.
func pretty() lineFunc {
	var whole, buf bytes.Buffer
	return func(f *frame.Frame, head, rest []byte) ([]byte, error) {
		buf.Reset()
		if err := json.Indent(&buf, join(&whole, head, rest), wire.PrettyPrefix, wire.PrettyIndent); err != nil {
			return nil, fmt.Errorf("indenting %s: %w", f.Key(), err)
		}
		return buf.Bytes(), nil
	}
}

// inYAML returns a lineFunc that makes lines of a sequence in YAML.
func inYAML() lineFunc {
	var whole bytes.Buffer
	const open, closing = `{"i":[`, `]}`
	return func(f *frame.Frame, head, rest []byte) ([]byte, error) {
		// Long strings are folded by column: the item has to stand where it will.
		lines, err := yaml.JSONToYAML(append(append([]byte(open), join(&whole, head, rest)...), closing...))
		if err != nil {
			return nil, fmt.Errorf("turning %s into YAML: %w", f.Key(), err)
		}
		lines, ok := bytes.CutPrefix(lines, []byte("i:\n"))
		if !ok {
			return nil, fmt.Errorf("turning %s into YAML: unexpected %.20q", f.Key(), lines)
		}
		return lines, nil
	}
}

func join(buf *bytes.Buffer, head, rest []byte) []byte {
	if len(head) == 0 {
		return rest
	}
	buf.Reset()
	buf.Write(head)
	buf.Write(rest)
	return buf.Bytes()
}

const (
	// longestKey is well below the 1024 characters that a key may have in YAML.
	longestKey = 1000
	// deepest is well below the 10,000 levels that YAML may have.
	deepest = 5000
)

// plainYAML tells whether JSON can surely be turned into YAML. It may be wrong in saying no.
// What upstream's YAML refuses are control characters and some of Unicode, which JSON may
// have as they are, keys that are long, and depth; see readerc.go, scannerc.go and parserc.go
// of sigs.k8s.io/yaml/goyaml.v2.
func plainYAML(object []byte) bool {
	depth, opened, inString := 0, 0, false
	for i := 0; i < len(object); i++ {
		switch c := object[i]; {
		case c < ' ' || c > '~':
			return false
		case inString && c == '\\':
			i++
		case inString && c == '"':
			inString = false
			if i+1 < len(object) && object[i+1] == ':' && i-opened > longestKey {
				return false
			}
		case inString:
		case c == '"':
			opened, inString = i, true
		case c == '{' || c == '[':
			if depth++; depth > deepest {
				return false
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return true
}
