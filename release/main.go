// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Command release makes of weir's binaries what is released of them: container images, Debian packages and a list of checksums. It is a
// module of its own, so that what it needs is not among what weir needs, and takes neither a Docker daemon nor root.
//
//	dist/weir-linux-amd64 ──▶ dist/weir-VERSION-linux-amd64.tar  an image, for docker load, ctr images import, kind load image-archive
//	dist/weir-linux-arm64     dist/oci/                          the images of all architectures, as an OCI image layout
//	                          dist/weir_VERSION_amd64.deb        a package, with a systemd unit
//	                          dist/SHA256SUMS                    of all files
//
// The same binaries make the same files: times in them are those of --time.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// release is what is to be made.
type release struct {
	// dist is where the binaries are, and everything goes to.
	dist string
	// version is weir's, kubernetes that of the API: "v0.1.0", "v1.37.2".
	version, kubernetes string
	// image is the images' name without a tag.
	image string
	// certificates is a file with the certificates of authorities that images have; empty for none.
	certificates string
	// time is what files are said to be of.
	time time.Time
	// files are those of the package: where the unit and the scripts are.
	files string
}

// arches are Go's names of the architectures, which are Debian's and OCI's, too.
var arches = []string{"amd64", "arm64"}

func main() {
	var r release
	var seconds int64
	flag.StringVar(&r.dist, "dist", "dist", "directory of the binaries weir-linux-ARCH, and of what is made")
	flag.StringVar(&r.version, "version", "", "weir's version, such as v0.1.0")
	flag.StringVar(&r.kubernetes, "kubernetes", "", "the version of Kubernetes that it serves, such as v1.37.2")
	flag.StringVar(&r.image, "image", "weir.local/kube-apiserver", "name of the images, without a tag")
	flag.StringVar(&r.certificates, "certificates", "", "file of authorities' certificates for the images, such as /etc/ssl/certs/ca-certificates.crt")
	flag.StringVar(&r.files, "files", "files", "directory of the package's unit and scripts")
	flag.Int64Var(&seconds, "time", 0, "what files are said to be of, in seconds since 1970")
	flag.Parse()
	r.time = time.Unix(seconds, 0).UTC()
	if err := r.run(); err != nil {
		fmt.Fprintln(os.Stderr, "release:", strings.Join(strings.Fields(err.Error()), " "))
		os.Exit(1)
	}
}

func (r *release) run() error {
	if r.version == "" || r.kubernetes == "" {
		return fmt.Errorf("cannot release without versions: give --version and --kubernetes")
	}
	var made []built
	for _, arch := range arches {
		binary := r.binary(arch)
		if _, err := os.Stat(binary); err != nil {
			return fmt.Errorf("cannot release %s: %w (make release builds it)", arch, err)
		}
		b, err := r.makeImage(arch)
		if err != nil {
			return fmt.Errorf("cannot make the image of %s: %w", arch, err)
		}
		made = append(made, b)
		if err := r.makePackage(arch); err != nil {
			return fmt.Errorf("cannot make the package of %s: %w", arch, err)
		}
	}
	if err := r.makeLayout(made); err != nil {
		return fmt.Errorf("cannot write the image layout: %w", err)
	}
	return r.makeSums()
}

func (r *release) binary(arch string) string { return filepath.Join(r.dist, "weir-linux-"+arch) }

// tag is weir's version with that of upstream as its suffix.
func (r *release) tag() string { return r.version + "-" + r.kubernetes }
