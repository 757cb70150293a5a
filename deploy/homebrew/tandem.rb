# A template: scripts/homebrew_formula.py fills in the address and digest of a source distribution.
class Tandem < Formula
  desc "Several Macs or Linux machines serve one large language model together"
  url "@URL@"
  sha256 "@SHA256@"
  license "Apache-2.0"

  depends_on "python@3.12"

  on_macos do
    depends_on arch: :arm64
    depends_on macos: :sonoma
  end

  # MLX and others come as binary wheels, which have no room for the paths that Homebrew would
  # write into them, and find each other without.
  preserve_rpath

  def install
    # The lock pins every package by its digest, MLX's wheels included, which can't be resources:
    # there is no source distribution of them.
    system "python3.12", "-m", "venv", libexec
    pip = [libexec/"bin/python", "-m", "pip", "install", "--no-deps", "--no-cache-dir"]
    system(*pip, "--require-hashes", "-r", "requirements.lock")
    system(*pip, buildpath)
    bin.install_symlink libexec/"bin/tandem"
    man1.install_symlink libexec/"share/man/man1/tandem.1"
    generate_completions_from_executable(bin/"tandem", shell_parameter_format: :typer,
                                                       shells:                 [:bash, :zsh, :fish])
  end

  service do
    run [opt_bin/"tandem", "serve"]
    keep_alive true
    error_log_path var/"log/tandem.log"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/tandem --version")
  end
end
