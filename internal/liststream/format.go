// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"bytes"
	"encoding/json"
	"mime"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1beta1 "k8s.io/apimachinery/pkg/apis/meta/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"sigs.k8s.io/yaml"

	"github.com/weir-project/weir/internal/wire"
)

// unknown is the format of what is not understood.
const unknown = wire.ListFormat(255)

// cborTag is what Kubernetes begins CBOR with: the tag of self-described CBOR.
var cborTag = []byte{0xd9, 0xd9, 0xf7}

// format tells what the handler has written, or begun to write.
func (a *Answer) format() wire.ListFormat {
	mediaType, _, err := mime.ParseMediaType(a.w.Header().Get("Content-Type"))
	if err != nil {
		return unknown
	}
	switch mediaType {
	case runtime.ContentTypeJSON:
		if bytes.HasPrefix(a.body, []byte("{\n")) {
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

// complete tells whether a body is all there. It may be wrong in saying no.
func complete(f wire.ListFormat, body []byte) bool {
	switch f {
	case wire.ListJSON:
		return bytes.HasSuffix(body, []byte("}\n")) // a newline does not stand in a JSON string
	case wire.ListPretty:
		return json.Valid(body)
	case wire.ListYAML:
		return true // upstream writes it at once
	case wire.ListProtobuf:
		_, ok := wire.ProtobufBody(body)
		return ok
	case wire.ListCBOR:
		_, err := cborMap(body)
		return err == nil
	default:
		return false
	}
}

// header is what is read of a list without items.
type header struct {
	metav1.TypeMeta `json:",inline"`
	// ColumnDefinitions are a Table's.
	ColumnDefinitions []metav1.TableColumnDefinition `json:"columnDefinitions"`
}

// transformed tells whether the list is not of the objects themselves.
func (h *header) transformed() bool {
	return h.APIVersion == metav1.SchemeGroupVersion.String() || h.APIVersion == metav1beta1.SchemeGroupVersion.String()
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
		if fields, err = cborMap(body); err == nil {
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

func cborMap(body []byte) (map[string]any, error) {
	var fields map[string]any
	err := direct.Unmarshal(bytes.TrimPrefix(body, cborTag), &fields)
	return fields, err
}
