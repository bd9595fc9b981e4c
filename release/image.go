// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// built is an image.
type built struct {
	platform v1.Platform
	image    v1.Image
}

// program is where upstream's image has kube-apiserver; other is weir by its own name.
const (
	program = "usr/local/bin/kube-apiserver"
	other   = "usr/local/bin/weir"
)

// makeImage makes the image of an architecture, and the archive of it.
func (r *release) makeImage(arch string) (built, error) {
	base, err := layerOf(r.base)
	if err != nil {
		return built{}, err
	}
	program, err := layerOf(func(w *tar.Writer) error { return r.program(w, arch) })
	if err != nil {
		return built{}, err
	}
	image := mutate.MediaType(empty.Image, types.DockerManifestSchema2)
	image = mutate.ConfigMediaType(image, types.DockerConfigJSON)
	if image, err = mutate.AppendLayers(image, base, program); err != nil {
		return built{}, err
	}
	platform := v1.Platform{OS: "linux", Architecture: arch}
	image, err = mutate.ConfigFile(image, r.config(image, platform))
	if err != nil {
		return built{}, err
	}
	tag, err := name.NewTag(r.image + ":" + r.tag())
	if err != nil {
		return built{}, err
	}
	path := filepath.Join(r.dist, fmt.Sprintf("weir-%s-linux-%s.tar", r.version, arch))
	return built{platform, image}, tarball.WriteToFile(path, tag, image)
}

// config says how the image is run: as upstream's is, by the name of the program, or by itself.
func (r *release) config(image v1.Image, platform v1.Platform) *v1.ConfigFile {
	config, err := image.ConfigFile()
	if err != nil {
		config = &v1.ConfigFile{}
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = platform.OS, platform.Architecture
	config.Created = v1.Time{Time: r.time}
	config.Config = v1.Config{
		Entrypoint: []string{"/" + program},
		Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "SSL_CERT_FILE=/" + certificates},
		WorkingDir: "/",
		Labels: map[string]string{
			"org.opencontainers.image.title":       "weir",
			"org.opencontainers.image.version":     r.version,
			"org.opencontainers.image.description": "kube-apiserver " + r.kubernetes + " whose lists and watches stream bytes that were encoded once",
			"org.opencontainers.image.licenses":    "Apache-2.0",
		},
	}
	return config
}

const certificates = "etc/ssl/certs/ca-certificates.crt"

// base writes what a program expects of a system: users, names, a directory for what is temporary, authorities.
func (r *release) base(w *tar.Writer) error {
	for _, dir := range []string{"etc/", "etc/ssl/", "etc/ssl/certs/", "usr/", "usr/local/", "usr/local/bin/"} {
		if err := w.WriteHeader(r.header(dir, tar.TypeDir, 0o755, 0)); err != nil {
			return err
		}
	}
	if err := w.WriteHeader(r.header("tmp/", tar.TypeDir, 0o1777, 0)); err != nil {
		return err
	}
	files := map[string]string{
		"etc/group":         "root:x:0:\nnonroot:x:65532:\n",
		"etc/nsswitch.conf": "hosts: files dns\n",
		"etc/passwd":        "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n",
	}
	if r.certificates != "" {
		text, err := os.ReadFile(r.certificates)
		if err != nil {
			return fmt.Errorf("cannot read the authorities' certificates: %w", err)
		}
		files[certificates] = string(text)
	}
	for _, name := range []string{"etc/group", "etc/nsswitch.conf", "etc/passwd", certificates} {
		text, ok := files[name]
		if !ok {
			continue
		}
		if err := w.WriteHeader(r.header(name, tar.TypeReg, 0o644, int64(len(text)))); err != nil {
			return err
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
	}
	return nil
}

// program writes the program, which may bind low ports whoever runs it, as upstream's may.
func (r *release) program(w *tar.Writer, arch string) error {
	file, err := os.Open(r.binary(arch))
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	h := r.header(program, tar.TypeReg, 0o755, info.Size())
	h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": string(bindService())}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	if _, err := io.Copy(w, file); err != nil {
		return err
	}
	link := r.header(other, tar.TypeSymlink, 0o777, 0)
	link.Linkname = "kube-apiserver"
	return w.WriteHeader(link)
}

// bindService is the extended attribute of a file that has cap_net_bind_service=ep: struct vfs_cap_data of revision 2, in
// linux/capability.h.
func bindService() []byte {
	const revision2, effective, netBindService = 0x02000000, 1, 10
	data := binary.LittleEndian.AppendUint32(nil, revision2|effective)
	data = binary.LittleEndian.AppendUint32(data, 1<<netBindService)
	return append(data, make([]byte, 12)...) // nothing to inherit, and none of the capabilities from 32 on
}

func (r *release) header(name string, kind byte, mode, size int64) *tar.Header {
	return &tar.Header{Name: name, Typeflag: kind, Mode: mode, Size: size, ModTime: r.time, Format: tar.FormatPAX}
}

// layerOf makes a layer of what write writes.
func layerOf(write func(*tar.Writer) error) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := write(w); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
}

// makeLayout writes the images as one of several architectures.
func (r *release) makeLayout(all []built) error {
	index := mutate.IndexMediaType(empty.Index, types.DockerManifestList)
	for _, b := range all {
		platform := b.platform
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: b.image, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	// The layout's own index has that one, under the name by which importers take it.
	top := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: index, Descriptor: v1.Descriptor{
		Annotations: map[string]string{
			"io.containerd.image.name":          r.image + ":" + r.tag(),
			"org.opencontainers.image.ref.name": r.tag(),
		},
	}})
	_, err := layout.Write(filepath.Join(r.dist, "oci"), top)
	return err
}
