// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"bytes"
	"encoding/json"
	"mime"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"sigs.k8s.io/yaml"

	"github.com/weir-project/weir/internal/wire"
)

// unknown is the format of what is not understood.
const unknown = wire.ListFormat(255)

// cborTag is what Kubernetes begins CBOR with: the tag of self-described CBOR.
var cborTag = []byte{0xd9, 0xd9, 0xf7}

// formatOf tells what a handler has written, or begun to write.
func formatOf(header http.Header, body []byte) wire.ListFormat {
	switch mediaTypeOf(header) {
	case runtime.ContentTypeJSON:
		if bytes.HasPrefix(body, []byte("{\n")) {
			return wire.ListPretty
		}
		return wire.ListJSON
	case runtime.ContentTypeYAML:
		return wire.ListYAML
	case runtime.ContentTypeProtobuf:
		return wire.ListProtobuf
	case runtime.ContentTypeCBOR:
		return wire.ListCBOR
	default:
		return unknown
	}
}

func mediaTypeOf(header http.Header) string {
	mediaType, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return mediaType
}

// complete tells whether what upstream makes of the list is all there. It may be wrong in
// saying no. What is not understood need not be: it is not waited for.
func (a *Answer) complete(f wire.ListFormat) bool {
	switch f {
	case wire.ListJSON:
		return bytes.HasSuffix(a.body, []byte("}\n")) // a newline does not stand in a JSON string
	case wire.ListPretty:
		return json.Valid(a.body) // upstream writes it at once
	case wire.ListProtobuf:
		_, ok := wire.ProtobufBody(a.body)
		return ok
	case wire.ListCBOR:
		// Upstream writes it item by item; to look at all of it with each would take long.
		return a.plan.DefaultedOnRead == 0 && wire.CompleteCBOR(a.body)
	default:
		return true // upstream writes YAML at once
	}
}

// header is what is read of a list.
type header struct {
	metav1.TypeMeta `json:",inline"`
	// ColumnDefinitions are a Table's.
	ColumnDefinitions []metav1.TableColumnDefinition `json:"columnDefinitions"`
}

func readHeader(f wire.ListFormat, body []byte) (header, error) {
	var h header
	var err error
	switch f {
	case wire.ListJSON, wire.ListPretty:
		err = json.Unmarshal(body, &h)
	case wire.ListYAML:
		err = yaml.Unmarshal(body, &h)
	case wire.ListCBOR:
		var fields map[string]any
		if err = direct.Unmarshal(bytes.TrimPrefix(body, cborTag), &fields); err == nil {
			err = runtime.DefaultUnstructuredConverter.FromUnstructured(fields, &h)
		}
	case wire.ListProtobuf:
		var ok bool
		if h.APIVersion, h.Kind, ok = wire.ProtobufType(body); !ok {
			err = wire.ErrNotSpliced
		}
	default:
		err = wire.ErrNotSpliced
	}
	if err != nil || h.APIVersion == "" || h.Kind == "" {
		return h, wire.ErrNotSpliced
	}
	return h, nil
}
