// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"encoding/json"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weir-project/weir/internal/wire"
)

// variant is what one identifier of upstream's watch encoder asks for. Identifiers
// are made by k8s.io/apiserver/pkg/endpoints/handlers/response.go (watchEncoder,
// watchEmbeddedEncoder) and by k8s.io/apimachinery's versioning codec; one that does
// not read as expected is served by encoding anew, never by guessing.
type variant struct {
	// watch says that a whole watch event is wanted. Otherwise nothing else is set.
	watch bool
	// eventType is ADDED, MODIFIED or DELETED.
	eventType string
	// envelope is the format of the event around the object.
	envelope wire.Format
	// object identifies the encoding of the object in the event.
	object runtime.Identifier
	// plain says that the object is encoded as it is: in the format objectFormat and
	// the API version apiVersion.
	plain        bool
	objectFormat wire.Format
	apiVersion   string
	// table says that the object is a Table; columns that it is one with its column
	// definitions, which upstream sends in the first event of a stream only.
	table, columns bool
	// metadata says that the object is a PartialObjectMetadata.
	metadata bool
	// shuffled says that upstream's encoder writes maps in an order that is another one each
	// time, so that no client relies on one.
	shuffled bool
}

// variety is how many encodings there are of what is shuffled. Which one is sent is left to
// chance: two are enough for a client that relies on an order to fail soon.
const variety = 2

type watchIdentifier struct {
	Name            string `json:"name"`
	EmbeddedEncoder string `json:"embeddedEncoder"`
	Encoder         string `json:"encoder"`
	EventType       string `json:"eventType"`
}

type codecIdentifier struct {
	Name     string `json:"name"`
	EncodeGV string `json:"encodeGV"`
	Encoder  string `json:"encoder"`
}

type transformIdentifier struct {
	Name      string `json:"name"`
	Target    string `json:"target"`
	NoHeaders bool   `json:"noHeaders"`
}

type jsonIdentifier struct {
	Name   string `json:"name"`
	Pretty string `json:"pretty"`
	YAML   string `json:"yaml"`
}

// variants remembers every identifier ever asked for. There are few: they name
// media types, versions and transforms, not requests.
var variants sync.Map // runtime.Identifier → *variant

func variantOf(id runtime.Identifier) *variant {
	if v, ok := variants.Load(id); ok {
		return v.(*variant)
	}
	v, _ := variants.LoadOrStore(id, parseVariant(id))
	return v.(*variant)
}

func parseVariant(id runtime.Identifier) *variant {
	var w watchIdentifier
	if json.Unmarshal([]byte(id), &w) != nil || w.Name != "watch" || w.EmbeddedEncoder == "" || w.EventType == "" {
		return &variant{}
	}
	v := &variant{watch: true, eventType: w.EventType, object: runtime.Identifier(w.EmbeddedEncoder)}
	if stream, ok := parseCodec(w.Encoder); ok {
		v.envelope = formatOf(stream.Encoder, "raw-protobuf")
		v.shuffled = stream.Encoder == "cbor"
	}
	var t transformIdentifier
	if codec, ok := parseCodec(w.EmbeddedEncoder); ok {
		v.objectFormat = formatOf(codec.Encoder, "protobuf")
		v.apiVersion = codec.EncodeGV
		v.plain = v.objectFormat != wire.Other && v.objectFormat == v.envelope
	} else if json.Unmarshal([]byte(w.EmbeddedEncoder), &t) == nil {
		v.table = t.Name == "watch-embedded" && isKind(t.Target, "Table")
		v.columns = v.table && !t.NoHeaders
		v.metadata = t.Name == "watch-embedded" && isKind(t.Target, "PartialObjectMetadata")
	}
	return v
}

func parseCodec(id string) (codecIdentifier, bool) {
	var c codecIdentifier
	err := json.Unmarshal([]byte(id), &c)
	return c, err == nil && c.Name == "versioning"
}

// formatOf reads the identifier of a serializer.
func formatOf(serializer, protobuf string) wire.Format {
	if serializer == protobuf {
		return wire.Protobuf
	}
	var j jsonIdentifier
	if json.Unmarshal([]byte(serializer), &j) == nil && j.Name == "json" && j.Pretty == "false" && j.YAML == "false" {
		return wire.JSON
	}
	return wire.Other
}

// isKind reads a GroupVersionKind as its String method writes it.
func isKind(target, kind string) bool { return strings.HasSuffix(target, "Kind="+kind) }
