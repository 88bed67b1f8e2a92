// Return the texts of the notebook whose contrast with what lies behind them is less than `least`, as WCAG 2 counts it.
(least) => {
    const rgba = (colour) => {
        const [red, green, blue, alpha = 1] = colour.match(/[\d.]+/g).map(Number);
        return [red, green, blue, alpha];
    };
    const over = ([red, green, blue, alpha], below) =>
        [red, green, blue].map((part, i) => alpha * part + (1 - alpha) * below[i]);
    const behind = (element) => element === null
        ? [255, 255, 255]
        : over(rgba(getComputedStyle(element).backgroundColor), behind(element.parentElement));
    const luminance = (colour) => colour
        .map((part) => part / 255)
        .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
    const contrast = (element) => {
        const ground = behind(element);
        const text = over(rgba(getComputedStyle(element).color), ground);
        const [dark, light] = [text, ground].map(luminance).sort((one, other) => one - other);
        return (light + 0.05) / (dark + 0.05);
    };
    const faint = [];
    for (const part of document.querySelectorAll('.jp-Notebook .jp-RenderedMarkdown, .jp-Notebook .jp-OutputArea-output')) {
        for (const walk = document.createTreeWalker(part, NodeFilter.SHOW_TEXT); walk.nextNode();) {
            const text = walk.currentNode.data.trim(), element = walk.currentNode.parentElement;
            if (text && element.offsetParent && contrast(element) < least) {
                faint.push(`${contrast(element).toFixed(1)}: ${text.slice(0, 60)}`);
            }
        }
    }
    return faint;
}
