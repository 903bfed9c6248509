# The formula of a tap. `url` and `sha256` are those of a release: scripts/package writes a copy with the address in
# $MLXCTL_RELEASE_URL and the archive's checksum to target/package/mlxctl.rb, which
# `brew install --formula target/package/mlxctl.rb` takes as it is.
class Mlxctl < Formula
  desc "Keeps local language models served: a supervisor around mlx_lm.server"
  homepage "https://example.com/mlxctl"
  url "https://example.com/mlxctl/mlxctl-0.1.0-aarch64-apple-darwin.tar.gz"
  sha256 "0000000000000000000000000000000000000000000000000000000000000000"
  license any_of: ["MIT", "Apache-2.0"]

  depends_on arch: :arm64
  depends_on macos: :sonoma
  # Neither uv nor Python: `mlxctl setup` finds or downloads one and says which.

  def install
    bin.install "mlxctl"
    man1.install Dir["man/*.1"]
    bash_completion.install "completions/mlxctl.bash" => "mlxctl"
    zsh_completion.install "completions/mlxctl.zsh" => "_mlxctl"
    fish_completion.install "completions/mlxctl.fish"
    pkgshare.install "config", "scripts"
    doc.install Dir["docs/*"]
  end

  # Prefer `mlxctl agent install`: Homebrew's service has no ExitTimeOut, so a stop by launchd cuts answers off after
  # 5 s, and it cannot raise the limit of open files.
  service do
    run [opt_bin/"mlxctl", "serve"]
    keep_alive true
    process_type :background
    environment_variables PATH: std_service_path_env
    working_dir var
    log_path var/"log/mlxctl.log"
    error_log_path var/"log/mlxctl.log"
  end

  def caveats
    <<~EOS
      A registry to begin with is #{opt_pkgshare}/config/models.toml; mlxctl looks for it in
        ~/Library/Application Support/mlxctl/models.toml
      Prefer `mlxctl agent install` to `brew services start mlxctl`: it sets what launchd otherwise
      leaves to luck, and waits until the models answer.
    EOS
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/mlxctl --version")
    (testpath/"models.toml").write("[paths]\nroot = 7\n")
    assert_match "problem", shell_output("#{bin}/mlxctl --config #{testpath}/models.toml check 2>&1", 2)
  end
end
