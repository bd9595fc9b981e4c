// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"bytes"
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
)

// Upstream writes the maps of an answer in CBOR in an order that is another one each time, so
// that no client relies on one. What is shared has an order: there are two encodings of each
// item, and chance decides which is sent.

// variants returns the names of the encodings among which chance decides.
func (e encoding) variants(id runtime.Identifier) []runtime.Identifier {
	if e != inCBOR {
		return []runtime.Identifier{id}
	}
	return []runtime.Identifier{id, id + ", again"}
}

// shuffling encodes as upstream's servers do; it needs to know no types for that.
var shuffling = cbor.NewSerializer(nil, nil)

// marshalCBOR writes an object as it is inside of a list.
func marshalCBOR(v any, w io.Writer) error {
	obj, ok := v.(runtime.Object)
	if !ok {
		return fmt.Errorf("%T is no object that can be written as CBOR", v)
	}
	return shuffling.EncodeNondeterministic(obj, &untagged{w: w})
}

// untagged is a writer without cborTag, which an item of a list does not have and which has to be the first Write.
type untagged struct {
	w     io.Writer
	begun bool
}

func (u *untagged) Write(p []byte) (int, error) {
	if u.begun {
		return u.w.Write(p)
	}
	u.begun = true
	if !bytes.Equal(p, cborTag) {
		return 0, fmt.Errorf("an object in CBOR begins with % x, not with its tag", p)
	}
	return len(p), nil
}
