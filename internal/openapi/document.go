// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"bytes"
	"crypto/sha512"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
)

// document is one document in both of its forms. It is immutable, but for the protobuf, which is made when it is first
// asked for.
type document struct {
	// etag is upstream's: a hash of the JSON, for the protobuf as well. It has no quotes.
	etag     string
	modified time.Time
	json     packed

	// toProtobuf makes the protobuf of the JSON.
	toProtobuf func(json []byte) ([]byte, error)
	mu         sync.Mutex
	protobuf   packed
}

// form returns the document as JSON or protobuf.
func (d *document) form(protobuf bool) (packed, error) {
	if !protobuf {
		return d.json, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.protobuf.compressed == nil {
		text, err := d.json.unpack()
		if err != nil {
			return packed{}, err
		}
		data, err := d.toProtobuf(text)
		if err != nil {
			return packed{}, fmt.Errorf("cannot write an OpenAPI document of %d bytes as protobuf: %w", len(text), err)
		}
		if d.protobuf, err = pack(data); err != nil {
			return packed{}, err
		}
	}
	return d.protobuf, nil
}

// packed is text as one gzip member. The zero packed is none.
type packed struct {
	compressed []byte
	size       int // of the text, in bytes
}

func pack(text []byte) (packed, error) {
	p := newPacker()
	if _, err := p.Write(text); err != nil {
		return packed{}, err
	}
	return p.packed()
}

// unpack returns the text, which is the caller's.
func (p packed) unpack() ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(p.compressed))
	if err != nil {
		return nil, fmt.Errorf("cannot unpack an OpenAPI document: %w", err)
	}
	text := make([]byte, p.size)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, fmt.Errorf("cannot unpack an OpenAPI document: %w", err)
	}
	return text, nil
}

// packer compresses and hashes what is written to it.
type packer struct {
	compressed bytes.Buffer
	gzip       *gzip.Writer
	size       int
}

// compressors are used again: one takes a megabyte.
var compressors = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

func newPacker() *packer {
	p := &packer{gzip: compressors.Get().(*gzip.Writer)}
	p.gzip.Reset(&p.compressed)
	return p
}

func (p *packer) Write(text []byte) (int, error) {
	p.size += len(text)
	return p.gzip.Write(text)
}

// packed ends the text. The packer is not to be used any more.
func (p *packer) packed() (packed, error) {
	err := p.gzip.Close()
	compressors.Put(p.gzip)
	if err != nil {
		return packed{}, fmt.Errorf("cannot compress an OpenAPI document: %w", err)
	}
	return packed{compressed: bytes.Clone(p.compressed.Bytes()), size: p.size}, nil
}

// newDocument makes a document of what write writes as JSON.
func newDocument(toProtobuf func([]byte) ([]byte, error), write func(io.Writer) error) (*document, error) {
	p, hash := newPacker(), sha512.New()
	if err := write(io.MultiWriter(p, hash)); err != nil {
		return nil, err
	}
	text, err := p.packed()
	if err != nil {
		return nil, err
	}
	return &document{etag: fmt.Sprintf("%X", hash.Sum(nil)), modified: time.Now(), json: text, toProtobuf: toProtobuf}, nil
}
