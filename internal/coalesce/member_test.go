// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package coalesce_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/features"

	"github.com/weir-project/weir/internal/coalesce"
	"github.com/weir-project/weir/internal/deflate"
)

// Own bytes and segments, stored or not, come in order and in one member, while a producer says
// Busy and Idle as it likes.
func TestOneMember(t *testing.T) {
	for seed := range uint64(6) {
		bothVersions(t, func(t *testing.T, s *server) {
			s.routine = seed%2 == 1
			var want bytes.Buffer
			s.handler = func(w http.ResponseWriter, req *http.Request, x exchange) {
				random := rand.New(rand.NewPCG(seed, 1))
				stream := coalesce.From(req.Context())
				if !stream.Compress() {
					t.Error("it is not compressed")
				}
				if responsewriters.ContentEncodingSupported(req, features.WatchListCompression) != "" {
					t.Error("upstream would compress it again")
				}
				w.WriteHeader(http.StatusOK)
				w.(http.Flusher).Flush()
				stop, stopped := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(stopped)
					for {
						select {
						case <-stop:
							return
						default:
							stream.Busy()
							_ = stream.Progress()
							stream.Idle()
						}
					}
				}()
				for range 300 {
					size := random.IntN(1 << random.IntN(18))
					plain := []byte(strings.Repeat("abcdefgh", size/8+1))[:size]
					if random.IntN(3) == 0 {
						for i := range plain {
							plain[i] = byte(random.Uint32())
						}
					}
					want.Write(plain)
					if random.IntN(2) == 0 {
						if _, err := w.Write(plain); err != nil {
							t.Error(err)
						}
					} else if err := stream.Instead(deflate.Compress(plain, true), func(w io.Writer) error {
						_, err := w.Write(plain)
						return err
					}, size, func() error {
						_, err := w.Write(make([]byte, size))
						return err
					}); err != nil {
						t.Error(err)
					}
					if random.IntN(4) == 0 {
						w.(http.Flusher).Flush()
					}
				}
				close(stop)
				<-stopped
			}
			req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, s.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept-Encoding", "br, gzip")
			res, err := s.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if res.Header.Get("Content-Encoding") != "gzip" || res.Header.Get("Vary") != "Accept-Encoding" {
				t.Fatal(res.Header)
			}
			body := bufio.NewReader(res.Body)
			z, err := gzip.NewReader(body)
			if err != nil {
				t.Fatal(err)
			}
			z.Multistream(false)
			got, err := io.ReadAll(z)
			if err != nil {
				t.Fatalf("after %d bytes: %v", len(got), err)
			}
			rest, _ := io.ReadAll(body)
			<-s.returned
			if !bytes.Equal(got, want.Bytes()) || len(rest) > 0 {
				t.Errorf("%d bytes, want %d; %d behind the member", len(got), want.Len(), len(rest))
			}
		})
	}
}

// Everything that was written can be read while all is quiet.
func TestQuietIsReadable(t *testing.T) {
	bothVersions(t, func(t *testing.T, s *server) {
		next, done := make(chan []byte), make(chan struct{})
		s.handler = func(w http.ResponseWriter, req *http.Request, x exchange) {
			stream := coalesce.From(req.Context())
			stream.Compress()
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			i := 0
			for plain := range next {
				i++
				stream.Busy()
				if i%2 == 0 {
					_, _ = w.Write(plain)
				} else {
					_ = stream.Instead(deflate.Compress(plain, true), func(w io.Writer) error { _, err := w.Write(plain); return err }, 3, func() error {
						_, err := w.Write([]byte("any"))
						return err
					})
				}
				w.(http.Flusher).Flush() // held back
				stream.Idle()
			}
			close(done)
		}
		req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept-Encoding", "gzip")
		res, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var z *gzip.Reader
		random := rand.New(rand.NewPCG(5, 1))
		for i := range 200 {
			plain := bytes.Repeat([]byte{byte(i)}, 1+random.IntN(1<<random.IntN(17)))
			if i%3 == 0 {
				for i := range plain {
					plain[i] = byte(random.Uint32())
				}
			}
			next <- plain
			if z == nil {
				if z, err = gzip.NewReader(res.Body); err != nil {
					t.Fatal(err)
				}
			}
			got := make([]byte, len(plain))
			if _, err := io.ReadFull(z, got); err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("event %d: %v", i, err)
			}
		}
		close(next)
		<-done
		if rest, err := io.ReadAll(z); err != nil || len(rest) > 0 {
			t.Errorf("in the end %d bytes, %v", len(rest), err)
		}
	})
}
