// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/features"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/wire"
)

const (
	bufferSize = 64 << 10
	// gzipThreshold is upstream's defaultGzipThresholdBytes: smaller answers are not
	// compressed.
	gzipThreshold = 128 << 10
)

var gzips = responsewriters.NewGzipWriterPoolOrDie()

// stream sends the list. It tells whether anything has been sent when it fails;
// wire.ErrNotSpliced is returned before that.
func (a *Answer) stream(req *http.Request, encoders Encoders) (started bool, err error) {
	mediaType, _, err := mime.ParseMediaType(a.w.Header().Get("Content-Type"))
	if err != nil {
		return false, wire.ErrNotSpliced
	}
	out := &output{
		w:        a.w,
		compress: responsewriters.ContentEncodingSupported(req, features.APIResponseCompression) == "gzip",
	}
	ctx := req.Context()
	each := func(yield func(*frame.Frame) error) error {
		return a.plan.Each(func(f *frame.Frame) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return yield(f)
		})
	}
	switch mediaType {
	case runtime.ContentTypeJSON:
		err = sendJSON(out, a.body, each, encoders)
	case runtime.ContentTypeProtobuf:
		err = sendProtobuf(out, a.body, each, encoders)
	default:
		return false, wire.ErrNotSpliced
	}
	if err == nil {
		err = out.Close()
	}
	return out.started, err
}

type eachFunc func(yield func(*frame.Frame) error) error

func sendJSON(out io.Writer, list []byte, each eachFunc, encoders Encoders) error {
	head, tail, err := wire.SplitJSON(list)
	if err != nil {
		return err
	}
	var typ struct{ APIVersion string }
	if err := json.Unmarshal(list, &typ); err != nil {
		return wire.ErrNotSpliced
	}
	encoder, err := encoderFor(encoders, wire.JSON, typ.APIVersion)
	if err != nil {
		return err
	}
	if _, err := out.Write(head); err != nil {
		return err
	}
	var comma, prefix []byte
	kind := ""
	err = each(func(f *frame.Frame) error {
		object, err := f.As(wire.JSON, typ.APIVersion, encoder)
		if err != nil {
			return err
		}
		if k := f.Kind(); prefix == nil || k != kind {
			prefix, kind = wire.JSONTypePrefix(typ.APIVersion, k), k
		}
		brace, rest := wire.JSONItem(object, prefix)
		for _, part := range [][]byte{comma, brace, rest} {
			if _, err := out.Write(part); err != nil {
				return err
			}
		}
		comma = []byte{','}
		return nil
	})
	if err != nil {
		return err
	}
	_, err = out.Write(tail)
	return err
}

func sendProtobuf(out io.Writer, list []byte, each eachFunc, encoders Encoders) error {
	head, tail, err := wire.SplitProtobuf(list)
	if err != nil {
		return err
	}
	apiVersion, _, ok := wire.ProtobufType(list)
	if !ok {
		return wire.ErrNotSpliced
	}
	encoder, err := encoderFor(encoders, wire.Protobuf, apiVersion)
	if err != nil {
		return err
	}
	message := func(f *frame.Frame) ([]byte, error) {
		object, err := f.As(wire.Protobuf, apiVersion, encoder)
		if err != nil {
			return nil, err
		}
		body, ok := wire.ProtobufBody(object)
		if !ok {
			return nil, fmt.Errorf("%s is not encoded as protobuf", f.Key())
		}
		return body, nil
	}
	// The list's length comes before its items: they are measured before they are sent.
	total := 0
	err = each(func(f *frame.Frame) error {
		body, err := message(f)
		total += wire.ProtobufItemSize(len(body))
		return err
	})
	if err != nil {
		return err
	}
	if _, err := out.Write(head(total)); err != nil {
		return err
	}
	var itemHead [16]byte
	err = each(func(f *frame.Frame) error {
		body, err := message(f)
		if err != nil {
			return err
		}
		if _, err := out.Write(wire.AppendProtobufItemHead(itemHead[:0], len(body))); err != nil {
			return err
		}
		_, err = out.Write(body)
		return err
	})
	if err != nil {
		return err
	}
	_, err = out.Write(tail)
	return err
}

// encoderFor returns the encoder for objects that are not kept as they are asked for;
// nil where there is none, as for custom resources, whose objects always are.
func encoderFor(encoders Encoders, format wire.Format, apiVersion string) (runtime.Encoder, error) {
	version, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, wire.ErrNotSpliced
	}
	return encoders(format, version), nil
}

// output gathers what is written and, as upstream does, compresses what turns out to
// be large enough.
type output struct {
	w        http.ResponseWriter
	compress bool
	// pending is what has come while that was not known.
	pending []byte
	started bool
	buffer  *bufio.Writer
	gz      *gzip.Writer
	to      io.Writer
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	if !o.started {
		if o.compress && len(o.pending)+len(p) <= gzipThreshold {
			o.pending = append(o.pending, p...)
			return len(p), nil
		}
		if err := o.start(o.compress); err != nil {
			return 0, err
		}
	}
	return o.to.Write(p)
}

func (o *output) start(compress bool) error {
	o.started = true
	o.buffer = bufio.NewWriterSize(o.w, bufferSize)
	o.to = o.buffer
	if compress {
		o.w.Header().Set("Content-Encoding", "gzip")
		o.w.Header().Add("Vary", "Accept-Encoding")
		o.gz = gzips.Get().(*gzip.Writer)
		o.gz.Reset(o.buffer)
		o.to = o.gz
	}
	o.w.WriteHeader(http.StatusOK)
	_, err := o.to.Write(o.pending)
	o.pending = nil
	return err
}

// Close sends what is left.
func (o *output) Close() error {
	if !o.started {
		if err := o.start(false); err != nil {
			return err
		}
	}
	if o.gz != nil {
		err := o.gz.Close()
		o.gz.Reset(nil)
		gzips.Put(o.gz)
		o.gz = nil
		if err != nil {
			return err
		}
	}
	return o.buffer.Flush()
}
