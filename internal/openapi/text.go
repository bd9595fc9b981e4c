// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// member is one member of a JSON object, as it is written.
type member struct {
	key   string
	value []byte
}

// split takes an object apart. Written again by writeObject it is the same text: if it would not be, that is an error.
func split(object []byte) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(object))
	if begin, err := dec.Token(); err != nil || begin != json.Delim('{') {
		return nil, errors.Join(errors.New("no JSON object"), err)
	}
	var members []member
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		members = append(members, member{key.(string), value})
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if same := (&comparer{want: object}); writeObject(same, members) != nil || len(same.want) != 0 {
		return nil, fmt.Errorf("an object of %d members is not written as encoding/json writes it", len(members))
	}
	return members, nil
}

// sorted tells whether the members are in the order in which upstream writes those of a map.
func sorted(members []member) bool { return slices.IsSortedFunc(members, byKey) }

func byKey(a, b member) int { return strings.Compare(a.key, b.key) }

// find returns the value of a member, or nil.
func find(members []member, key string) []byte {
	for _, m := range members {
		if m.key == key {
			return m.value
		}
	}
	return nil
}

// writeObject writes an object of the members. Their keys are plain: names and paths, which need no escapes.
func writeObject(w io.Writer, members []member) error {
	separator := "{"
	for _, m := range members {
		if _, err := io.WriteString(w, separator+`"`+m.key+`":`); err != nil {
			return err
		}
		if _, err := w.Write(m.value); err != nil {
			return err
		}
		separator = ","
	}
	if len(members) == 0 {
		_, err := io.WriteString(w, "{}")
		return err
	}
	_, err := io.WriteString(w, "}")
	return err
}

// object returns an object of the members.
func object(members []member) []byte {
	var b bytes.Buffer
	_ = writeObject(&b, members) // a buffer takes everything
	return b.Bytes()
}

// comparer takes what is equal to want, and has in it what is left of that.
type comparer struct{ want []byte }

func (c *comparer) Write(p []byte) (int, error) {
	if !bytes.HasPrefix(c.want, p) {
		return 0, io.ErrShortWrite
	}
	c.want = c.want[len(p):]
	return len(p), nil
}
