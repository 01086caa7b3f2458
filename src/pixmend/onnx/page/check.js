// Says why this page cannot run: a script of the old kind, since modules fail without a word.
(function () {
  var words = '';
  if (!window.DecompressionStream || !window.OffscreenCanvas || !window.CSS || !CSS.supports('selector(:modal)')) {
    words = 'This browser is too old for this page. Open it with a current Firefox, Chrome, Edge or Safari.';
  } else if (location.protocol === 'file:' && document.getElementById('settings').textContent.indexOf('"single": true') < 0) {
    words = 'A browser runs this page from a web server only. In its folder, run: python3 -m http.server, then open http://localhost:8000. Or export one file: pixmend export MODEL page.html --page --single-file.';
  }
  if (!words) return;
  var main = document.querySelector('main');
  main.textContent = words;
  main.className = 'message error';
  main.setAttribute('role', 'alert');
})();
